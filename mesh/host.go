package mesh

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/host/observedaddrs"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Transport, as measured for offices on WAN links.
const (
	streamWindow   = 4 << 20 // the default window halves what a 40 ms link carries
	keepAlive      = 5 * time.Second
	writeTimeout   = 3 * time.Second
	connectTimeout = time.Second
	dialTimeout    = 3 * time.Second
)

// Limits of the resource manager beyond what it scales to the machine. Members
// may come from one address (offices behind one NAT), so limits for one address
// are those of a mesh, not of a household.
const (
	maxConns         = 2048
	maxConnsInbound  = 1536
	maxTransient     = 512 // connections in handshake, streams without a protocol
	maxStreams       = 65536
	maxStreamsPeer   = 4096
	maxConnsPeer     = 16
	connsPerSubnet   = 512
	connRatePerIP    = 20 // new connections a second
	connBurstPerIP   = 200
	rateMemoryPeriod = time.Minute
)

// observers is how many members must have seen an external address of this node
// before it tells others of it. libp2p wants four, more than a small mesh has.
var observers = sync.OnceFunc(func() { observedaddrs.ActivationThresh = 1 })

// newHost starts listening. relayed gives the addresses through relays.
func newHost(cfg *Config, g *gate, relayed func() []ma.Multiaddr) (host.Host, error) {
	observers()
	if err := checkFree(cfg.Listen); err != nil {
		return nil, err
	}
	resources, err := newResources(cfg)
	if err != nil {
		return nil, err
	}
	muxer := *yamux.DefaultTransport
	muxer.InitialStreamWindowSize = streamWindow
	muxer.KeepAliveInterval = keepAlive
	muxer.ConnectionWriteTimeout = writeTimeout
	options := []libp2p.Option{
		libp2p.Identity(cfg.Key),
		libp2p.UserAgent("meshproxy"),
		libp2p.ListenAddrStrings(cfg.Listen...),
		libp2p.Transport(tcp.NewTCPTransport, tcp.WithConnectionTimeout(connectTimeout)),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.Muxer(yamux.ID, &muxer),
		libp2p.ConnectionGater(g),
		libp2p.ConnectionManager(connmgr.NullConnMgr{}), // members are kept, strangers have the gate
		libp2p.ResourceManager(&gatedResources{resources, g}),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.SwarmOpts(swarm.WithDialTimeoutLocal(dialTimeout), swarm.WithDialRanker(rankDials)),
		libp2p.Ping(false),   // members have their own
		libp2p.EnableRelay(), // the transport; the service is in relay.go
	}
	announce, err := parseAddrs(cfg.Announce)
	if err != nil {
		return nil, err
	}
	options = append(options, libp2p.AddrsFactory(func(found []ma.Multiaddr) []ma.Multiaddr {
		return slices.Concat(advertised(found, len(announce) > 0), announce, relayed())
	}))
	if cfg.Metrics == nil {
		options = append(options, libp2p.DisableMetrics())
	} else {
		options = append(options, libp2p.PrometheusRegisterer(cfg.Metrics))
	}
	if cfg.BehindNAT {
		options = append(options, libp2p.ForceReachabilityPrivate())
	} else {
		options = append(options, libp2p.EnableNATService()) // answers members' AutoNAT
	}
	if cfg.PortMap {
		options = append(options, libp2p.NATPortMap())
	}
	h, err := libp2p.New(options...)
	if err != nil {
		return nil, fmt.Errorf("start the libp2p host: %w", err)
	}
	return h, nil
}

func newResources(cfg *Config) (network.ResourceManager, error) {
	scaled := rcmgr.DefaultLimits.AutoScale()
	atLeast := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: maxConns, ConnsInbound: maxConnsInbound, ConnsOutbound: maxConns, FD: maxConns,
			Streams: maxStreams, StreamsInbound: maxStreams, StreamsOutbound: maxStreams,
		},
		Transient: rcmgr.ResourceLimits{
			Conns: maxTransient, ConnsInbound: maxTransient, ConnsOutbound: maxTransient, FD: maxTransient,
			Streams: maxTransient, StreamsInbound: maxTransient, StreamsOutbound: maxTransient,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: maxConnsPeer, ConnsInbound: maxConnsPeer, ConnsOutbound: maxConnsPeer, FD: maxConnsPeer,
			Streams: maxStreamsPeer, StreamsInbound: maxStreamsPeer, StreamsOutbound: maxStreamsPeer,
			Memory: 512 << 20,
		},
		ProtocolDefault: rcmgr.ResourceLimits{
			Streams: maxStreams, StreamsInbound: maxStreams, StreamsOutbound: maxStreams, Memory: math.MaxInt64,
		},
		ProtocolPeerDefault: rcmgr.ResourceLimits{
			Streams: maxStreamsPeer, StreamsInbound: maxStreamsPeer, StreamsOutbound: maxStreamsPeer, Memory: 512 << 20,
		},
	}
	options := []rcmgr.Option{
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerSubnet}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: connsPerSubnet}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: connRatePerIP, Burst: connBurstPerIP}}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: rate.Limit{RPS: connRatePerIP, Burst: connBurstPerIP}}},
				GracePeriod:      rateMemoryPeriod,
			},
		}),
	}
	if cfg.Metrics == nil {
		options = append(options, rcmgr.WithMetricsDisabled())
	} else {
		rcmgr.MustRegisterWith(cfg.Metrics)
		reporter, err := rcmgr.NewStatsTraceReporter()
		if err != nil {
			return nil, fmt.Errorf("publish metrics of the resource manager: %w", err)
		}
		options = append(options, rcmgr.WithTraceReporter(reporter))
	}
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(atLeast.Build(scaled)), options...)
	if err != nil {
		return nil, fmt.Errorf("make the resource manager: %w", err)
	}
	return m, nil
}

func parseAddrs(texts []string) ([]ma.Multiaddr, error) {
	var out []ma.Multiaddr
	for _, s := range texts {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %.200q: %w", s, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// How long a dial waits for better addresses to answer.
const (
	quicAfter  = 250 * time.Millisecond
	relayAfter = 500 * time.Millisecond
)

// rankDials tries TCP first: on a LAN QUIC has a quarter of its speed.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	out := make([]network.AddrDelay, len(addrs))
	for i, a := range addrs {
		out[i].Addr = a
		switch {
		case hasProtocol(a, ma.P_CIRCUIT):
			out[i].Delay = relayAfter
		case hasProtocol(a, ma.P_UDP):
			out[i].Delay = quicAfter
		}
	}
	slices.SortStableFunc(out, func(a, b network.AddrDelay) int { return int(a.Delay - b.Delay) })
	return out
}

func hasProtocol(a ma.Multiaddr, code int) bool {
	_, err := a.ValueForProtocol(code)
	return err == nil
}

// advertised drops addresses that mean nothing elsewhere: loopback, link-local,
// and those of container bridges. A node that has no others keeps them, so that
// several nodes on one machine find each other; unless there are announced ones: then
// it stands behind something that forwards to it.
func advertised(addrs []ma.Multiaddr, announced bool) []ma.Multiaddr {
	local := containers.get()
	kept := slices.DeleteFunc(slices.Clone(addrs), func(a ma.Multiaddr) bool {
		ip, err := manet.ToIP(a)
		if err != nil {
			return false // a name, or a relay
		}
		return ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || slices.ContainsFunc(local, ip.Equal)
	})
	if len(kept) == 0 && !announced {
		return slices.Clone(addrs)
	}
	return kept
}

// containerInterfaces are name prefixes of interfaces that reach only containers
// and virtual machines of this computer.
var containerInterfaces = []string{"docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "lxc", "podman"}

// containers knows the addresses of those interfaces.
var containers containerIPs

// containerIPs remembers addresses for a few seconds: libp2p asks often, and
// asking the kernel costs.
type containerIPs struct {
	mu  sync.Mutex // guards ips, at
	ips []net.IP
	at  time.Time
}

const containerIPsAge = 10 * time.Second

func (c *containerIPs) get() []net.IP {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > containerIPsAge {
		c.ips, c.at = findContainerIPs(), time.Now()
	}
	return c.ips
}

func findContainerIPs() []net.IP {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil // then a few useless addresses are told
	}
	var out []net.IP
	for _, i := range ifaces {
		if !slices.ContainsFunc(containerInterfaces, func(p string) bool { return strings.HasPrefix(i.Name, p) }) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				out = append(out, n.IP)
			}
		}
	}
	return out
}
