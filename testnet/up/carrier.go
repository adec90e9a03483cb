package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/toxic"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// carrier carries what offices, which it knows by name, say to each other. Names that
// were not attached are a mistake of this package.
type carrier interface {
	// attach makes a place for an office, as far from all others as anybody is until
	// setPath.
	attach(name string, l Line) error
	// place adds to options that start the office what has it run in its place.
	place(name string, o *process.Options)
	// dial reaches an address of the office's own machine; nil where that is this one.
	dial(name string) func(ctx context.Context, network, address string) (net.Conn, error)
	setRate(name string, bits int64)
	setLatency(from, to string, oneWay time.Duration) error
	cut(from, to string, cut bool) error
	// others are names of places that are no offices.
	others() []string
	traffic() []traffic
	close() error
}

// traffic is what one office has sent to another so far.
type traffic struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Bytes   int64  `json:"bytes"`             // of IP packets, or of TCP streams without root
	Packets int64  `json:"packets,omitempty"` // that arrived; with root only
	Lost    int64  `json:"lost,omitempty"`    // packets; with root only
	Dialled int64  `json:"dialled,omitempty"` // connections; without root only
}

// proxies carry over loopback, without root.
type proxies struct {
	net    *toxic.Network
	jitter time.Duration
	sites  map[string]*toxic.Site
}

func newProxies(c *Config) *proxies {
	return &proxies{toxic.New(toxic.Path{Jitter: c.Jitter / 2}), c.Jitter, map[string]*toxic.Site{}}
}

func (p *proxies) attach(name string, l Line) (err error) {
	p.sites[name], err = p.net.Attach(name, l.Rate)
	return err
}

func (p *proxies) place(name string, o *process.Options) {
	s := p.sites[name]
	o.P2P, o.Flags = []string{s.P2P()}, append(o.Flags, "--announce", s.Front())
}

func (*proxies) dial(string) func(context.Context, string, string) (net.Conn, error) { return nil }

func (p *proxies) setRate(name string, bits int64) { p.sites[name].SetRate(bits) }

// setLatency has the jitter lie around the middle of what it adds.
func (p *proxies) setLatency(from, to string, oneWay time.Duration) error {
	return p.net.SetPath(p.sites[from], p.sites[to], toxic.Path{Latency: oneWay + p.jitter/2, Jitter: p.jitter / 2})
}

func (p *proxies) cut(from, to string, cut bool) error {
	return p.net.CutOneWay(p.sites[from], p.sites[to], cut)
}

func (*proxies) others() []string { return nil }

func (p *proxies) traffic() (all []traffic) {
	for _, t := range p.net.Traffic() {
		all = append(all, traffic{From: t.From.Name(), To: t.To.Name(), Bytes: t.Bytes, Dialled: t.Dialled})
	}
	return all
}

func (p *proxies) close() error { return p.net.Close() }

// networks carry packets between namespaces, which takes root.
type networks struct {
	net      *wan.Network
	path     wan.Path // but for the latency
	sites    map[string]*wan.Site
	internet []*outside.Server // what of this machine's world offices can reach, at a site of its own
	upstream string            // there
	sumdb    string            // GOSUMDB, with the URL there if it has one
}

// newNetworks makes the network, and a site from which the upstream and the checksum
// database that this machine has can be reached.
func newNetworks(c *Config) (n *networks, err error) {
	n = &networks{path: wan.Path{Jitter: c.Jitter, Loss: c.Loss, Reorder: c.Reorder}, sites: map[string]*wan.Site{}}
	if n.upstream, n.sumdb = c.Upstream, c.SumDB; n.upstream == "" {
		if n.upstream, err = machineProxy(); err != nil {
			return nil, err
		}
	}
	if n.sumdb == "" {
		if n.sumdb, err = goEnv("GOSUMDB"); err != nil {
			return nil, err
		}
	}
	if n.net, err = wan.New(uint64(time.Now().UnixNano())); err != nil {
		return nil, err
	}
	n.net.SetUsual(n.path)
	if err := n.connect(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// connect makes the site with what is outside.
func (n *networks) connect() (err error) {
	if n.upstream == "off" {
		return nil
	}
	if n.sites[network], err = n.net.Attach(network, wan.Setup{}); err != nil {
		return err
	}
	if n.upstream, err = n.forward(n.upstream); err != nil {
		return fmt.Errorf("upstream: %w; with --root there is one, or off", err)
	}
	if key, at, ok := strings.Cut(n.sumdb, " "); ok {
		if at, err = n.forward(strings.TrimSpace(at)); err != nil {
			return fmt.Errorf("checksum database: %w", err)
		}
		n.sumdb = key + " " + at
	}
	return nil
}

// forward has the network's site answer for a server that this machine reaches.
func (n *networks) forward(to string) (there string, err error) {
	target, err := url.Parse(to)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return "", fmt.Errorf("%q: want a URL", to)
	}
	const firstPort = 80
	site := n.sites[network]
	at := netip.AddrPortFrom(site.IPv4(), uint16(firstPort+len(n.internet)))
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) }}
	s, err := outside.NewServerAt(proxy, at.String(), site.Listen)
	if err != nil {
		return "", err
	}
	n.internet = append(n.internet, s)
	return s.URL(), nil
}

// machineProxy is the first proxy of the go command's own list.
func machineProxy() (string, error) {
	list, err := goEnv("GOPROXY")
	if err != nil {
		return "", err
	}
	for _, p := range strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == '|' }) {
		if u, err := url.Parse(p); err == nil && u.Host != "" {
			return p, nil
		}
	}
	return "", fmt.Errorf("no proxy in go env GOPROXY %q: say --upstream URL", list)
}

func goEnv(name string) (string, error) {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("go env %s: %w; say --upstream and --sumdb", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (n *networks) attach(name string, l Line) (err error) {
	n.sites[name], err = n.net.Attach(name, wan.Setup{Rate: l.Rate, NAT: l.NAT})
	return err
}

func (n *networks) place(name string, o *process.Options) {
	o.At, o.Listen, o.P2P, o.SumDB = n.sites[name], officePort, []string{}, n.sumdb
	if o.Upstream != "off" {
		o.Upstream = n.upstream
	}
}

func (n *networks) dial(name string) func(context.Context, string, string) (net.Conn, error) {
	return n.sites[name].DialContext
}

func (n *networks) setRate(name string, bits int64) { n.sites[name].SetRate(bits) }

func (n *networks) setLatency(from, to string, oneWay time.Duration) error {
	p := n.path
	p.Latency = oneWay
	n.net.SetPath(n.sites[from], n.sites[to], p)
	return nil
}

func (n *networks) cut(from, to string, cut bool) error {
	n.net.CutOneWay(n.sites[from], n.sites[to], cut)
	return nil
}

func (n *networks) others() []string {
	if n.sites[network] == nil {
		return nil
	}
	return []string{network}
}

func (n *networks) traffic() (all []traffic) {
	for _, t := range n.net.Traffic() {
		all = append(all, traffic{From: t.From.Name(), To: t.To.Name(), Bytes: t.Bytes, Packets: t.Packets, Lost: t.Dropped})
	}
	return all
}

func (n *networks) close() error {
	for _, s := range n.internet {
		s.Stop()
	}
	return n.net.Close()
}
