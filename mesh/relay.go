package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
)

// How members relay for each other. The limits are those of a mesh: the ones
// that libp2p has are for strangers.
const (
	relayPlaces    = 3 // members that keep a place for this node
	relayEvery     = 2 * time.Second
	relayTTL       = time.Hour
	relayRenew     = 10 * time.Minute // before a place runs out
	relayTime      = 5 * time.Second
	relayClients   = 1024
	relayCircuits  = 256 // of one member
	relayBuffer    = 64 << 10
	directFirst    = time.Second      // until the first attempt to do without the relay
	directEvery    = 30 * time.Second // between later ones, at most
	circuitPattern = "/p2p/%s/p2p-circuit"
)

// relays serves as a relay for members, and keeps places at some of them while
// this node may be out of reach itself.
type relays struct {
	gate    *gate
	service *relay.Relay

	mu     sync.Mutex // guards all below
	held   map[peer.ID]seat
	ways   []ma.Multiaddr // that held makes; libp2p asks for them all the time
	public network.Reachability
}

// seat is a place that a member keeps for this node.
type seat struct {
	until time.Time
	relay ma.Multiaddr // where this node has dialled the relay
}

func newRelays(g *gate) *relays { return &relays{gate: g, held: map[peer.ID]seat{}} }

// AllowReserve gives members a place.
func (r *relays) AllowReserve(p peer.ID, _ ma.Multiaddr) bool { return r.gate.isMember(p) }

// AllowConnect relays between members.
func (r *relays) AllowConnect(src peer.ID, _ ma.Multiaddr, dest peer.ID) bool {
	return r.gate.isMember(src) && r.gate.isMember(dest)
}

func (r *relays) serve(h host.Host) error {
	var err error
	r.service, err = relay.New(h,
		relay.WithResources(relay.Resources{
			ReservationTTL: relayTTL, MaxReservations: relayClients, MaxCircuits: relayCircuits,
			BufferSize:           relayBuffer,
			MaxReservationsPerIP: relayClients, MaxReservationsPerASN: relayClients,
		}), // no Limit: a member may send as much as it has to
		relay.WithACL(r),
		relay.WithReservationAddressFilter(func(ma.Multiaddr) bool { return true }),
	)
	if err != nil {
		return fmt.Errorf("start relaying: %w", err)
	}
	return nil
}

func (r *relays) close() error {
	if r.service == nil {
		return nil
	}
	return r.service.Close()
}

// addrs are where this node is reached through members. The relay's own address
// is in them, although who dials is a member and most often knows it: identify
// passes no address on that does not begin with a public one.
func (r *relays) addrs() []ma.Multiaddr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ways
}

// hold notes a place at p.
func (r *relays) hold(p peer.ID, s seat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[p] = s
	r.pave()
}

func (r *relays) lost(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.held[p]; ok {
		delete(r.held, p)
		r.pave()
	}
}

// pave renews the addresses. The caller holds mu.
func (r *relays) pave() {
	var ways []ma.Multiaddr // a new one, since the old one is with others
	for _, p := range slices.Sorted(maps.Keys(r.held)) {
		if a, err := ma.NewMultiaddr(fmt.Sprintf(circuitPattern, p)); err == nil {
			ways = append(ways, r.held[p].relay.Encapsulate(a))
		}
	}
	r.ways = ways
}

// relayLoop keeps places at members for as long as AutoNAT does not say that
// this node is in reach of everybody.
func (m *Mesh) relayLoop(ctx context.Context) error {
	sub, err := m.host.EventBus().Subscribe(new(event.EvtLocalReachabilityChanged))
	if err != nil {
		return fmt.Errorf("watch reachability: %w", err)
	}
	defer sub.Close()
	tick := time.NewTicker(relayEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-sub.Out():
			if e, ok := e.(event.EvtLocalReachabilityChanged); ok {
				m.relays.mu.Lock()
				m.relays.public = e.Reachability
				m.relays.mu.Unlock()
			}
		case <-tick.C:
			m.keepPlaces(ctx, time.Now())
		}
	}
}

// Reachability is what AutoNAT found: whether others can dial this node.
func (m *Mesh) Reachability() network.Reachability {
	m.relays.mu.Lock()
	defer m.relays.mu.Unlock()
	return m.relays.public
}

func (m *Mesh) keepPlaces(ctx context.Context, now time.Time) {
	if !m.cfg.BehindNAT && m.Reachability() == network.ReachabilityPublic {
		return
	}
	m.relays.mu.Lock()
	held := maps.Clone(m.relays.held)
	m.relays.mu.Unlock()
	good := 0
	for _, s := range held {
		if s.until.Sub(now) > relayRenew {
			good++
		}
	}
	if good >= relayPlaces {
		return
	}
	for _, p := range m.relayCandidates() {
		if good >= relayPlaces {
			return
		}
		if s, ok := held[p]; ok && s.until.Sub(now) > relayRenew {
			continue
		}
		if err := m.reserve(ctx, p); err != nil {
			m.log.Debug("ask for a place at a relay", "peer", p, "err", err)
			continue
		}
		good++
	}
}

// relayCandidates are members that this node has dialled itself, so that others
// can most likely dial them too.
func (m *Mesh) relayCandidates() []peer.ID {
	var out []peer.ID
	for _, p := range m.Connected() {
		if _, ok := m.dialledAt(p); ok {
			out = append(out, p)
		}
	}
	return out
}

func (m *Mesh) reserve(ctx context.Context, p peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	if err := m.introduce(ctx, p); err != nil {
		return err
	}
	relay, ok := m.dialledAt(p)
	if !ok {
		return fmt.Errorf("reserve at %s: its connection is gone", p)
	}
	got, err := client.Reserve(ctx, m.host, peer.AddrInfo{ID: p})
	if err != nil {
		return fmt.Errorf("reserve at %s: %w", p, err)
	}
	m.relays.hold(p, seat{got.Expiration, relay})
	m.pressing.Store(true) // others must hear of it before they can use it
	signal(m.changed)
	return nil
}

// dialledAt is the address at which this node has dialled p, without a relay.
func (m *Mesh) dialledAt(p peer.ID) (ma.Multiaddr, bool) {
	for _, c := range m.host.Network().ConnsToPeer(p) {
		if c.Stat().Direction == network.DirOutbound && wayOf(c) != Relayed {
			return c.RemoteMultiaddr(), true
		}
	}
	return nil, false
}

// dialDirect tries to do without the relay between this node and p.
func (m *Mesh) dialDirect(ctx context.Context, p peer.ID) {
	if m.isCalled(p) {
		m.punchThrough(ctx, p)
		return
	}
	addrs := slices.DeleteFunc(m.peers.addrs(p), func(a ma.Multiaddr) bool { return hasProtocol(a, ma.P_CIRCUIT) })
	if len(addrs) == 0 {
		return
	}
	m.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
	clearBackoff(m.host, p)
	ctx = network.WithForceDirectDial(ctx, "instead of a relay")
	if err := m.host.Connect(ctx, peer.AddrInfo{ID: p}); err != nil {
		if !errors.Is(err, context.Canceled) {
			m.log.Debug("no direct way to a member", "peer", p, "err", err)
		}
		return
	}
	m.dropRelayed(p)
}

// onlyRelayed reports whether p is connected, through relays alone.
func onlyRelayed(h host.Host, p peer.ID) bool {
	conns := h.Network().ConnsToPeer(p)
	return len(conns) > 0 && !slices.ContainsFunc(conns, func(c network.Conn) bool { return wayOf(c) != Relayed })
}
