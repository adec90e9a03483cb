package mesh

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// How members are redialled.
const (
	redialFirst  = 250 * time.Millisecond
	redialMost   = 5 * time.Second // between two attempts, for a mesh that is small
	redialSmall  = 64              // members out of reach up to which it is small
	redialTick   = 500 * time.Millisecond
	redialAtOnce = 16
	savePeers    = time.Minute
)

// peerBook remembers where members were last reached, over restarts, and when to
// try again.
type peerBook struct {
	m      *Mesh
	static map[peer.ID]bool // from Config.Peers

	mu    sync.Mutex // guards all below
	known map[peer.ID]*contact
	dirty bool
	// scanned is the view in which out was the list of members that no direct
	// connection was open to; nil when a connection has come or gone since.
	scanned *member.View
	out     []peer.ID
	stirs   uint64 // connections that have come or gone
}

type contact struct {
	addrs    []ma.Multiaddr // best first
	good     int            // how many of them were seen to be right; the rest is hearsay
	seen     time.Time      // when a connection was last open
	failed   int            // dials since
	next     time.Time      // no dial before
	dialing  bool
	rtt      time.Duration
	measured time.Time // when a measurement of rtt began
	own      [][]byte  // where it says that it is itself; nil if it has not said
	moved    time.Time // when that last changed
	told     told
	zips     *uint32        // that it announces, as it said last
	ahead    *time.Duration // of its clock is this machine's
}

type peersState struct {
	Hints []member.Hint `cbor:"1,keyasint"`
	Seen  []int64       `cbor:"2,keyasint"`
}

func newPeerBook(m *Mesh) (*peerBook, error) {
	b := &peerBook{m: m, static: map[peer.ID]bool{}, known: map[peer.ID]*contact{}}
	for _, text := range m.cfg.Peers {
		ai, err := peer.AddrInfoFromString(text)
		if err != nil {
			return nil, fmt.Errorf("peer address %.200q: want a multiaddr that ends in /p2p/ID: %w", text, err)
		}
		b.static[ai.ID] = true
		m.gate.allowDial(ai.ID) // for good: the operator named it
		b.of(ai.ID).add(ai.Addrs)
	}
	var saved peersState
	if _, err := m.getState(statePeers, &saved); err != nil {
		m.log.Warn("addresses of members are lost", "err", err) // they will be told again
	}
	b.hear("", saved.Hints)
	for i, h := range saved.Hints {
		if c := b.known[h.Peer.Peer()]; c != nil && i < len(saved.Seen) {
			c.seen = time.Unix(saved.Seen[i], 0)
		}
	}
	b.dirty = false
	return b, b.watch()
}

// of returns the contact of p; the caller holds mu, or has the book to itself.
func (b *peerBook) of(p peer.ID) *contact {
	c := b.known[p]
	if c == nil {
		c = &contact{}
		b.known[p] = c
	}
	return c
}

// add puts addresses at the end of those that are known.
func (c *contact) add(addrs []ma.Multiaddr) (changed bool) {
	for _, a := range addrs {
		if len(c.addrs) < maxHintAddrs && !slices.ContainsFunc(c.addrs, a.Equal) {
			c.addrs = append(c.addrs, a)
			changed = true
		}
	}
	return changed
}

// prefer puts addresses to the front: they have just been seen to be right.
func (c *contact) prefer(addrs []ma.Multiaddr) {
	old := c.addrs
	c.addrs = nil
	c.add(addrs)
	c.good = len(c.addrs)
	c.add(old)
}

// suggest puts hearsay behind what was seen, the latest first: nobody can fill
// the list for good.
func (c *contact) suggest(addrs []ma.Multiaddr) (changed bool) {
	for _, a := range addrs {
		if !slices.ContainsFunc(c.addrs, a.Equal) && c.good < maxHintAddrs {
			c.addrs = slices.Insert(c.addrs, c.good, a)
			c.addrs = c.addrs[:min(len(c.addrs), maxHintAddrs)]
			changed = true
		}
	}
	return changed
}

// told notes where p says that it is: what identify has put into the peerstore,
// from which it also takes what was there before.
func (b *peerBook) told(p peer.ID) {
	addrs := b.m.host.Peerstore().Addrs(p)
	if len(addrs) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p).prefer(addrs)
	b.dirty = true
}

// connected notes that a connection is open.
func (b *peerBook) connected(c network.Conn) {
	p := c.RemotePeer()
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.of(p)
	k.seen, k.failed, k.next = time.Now(), 0, time.Time{}
	if c.Stat().Direction == network.DirOutbound {
		k.prefer([]ma.Multiaddr{c.RemoteMultiaddr()})
	}
	b.dirty = true
}

// watch notes what identify tells of members' addresses.
func (b *peerBook) watch() error {
	sub, err := b.m.host.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted), eventbus.BufSize(256))
	if err != nil {
		return fmt.Errorf("watch peers' addresses: %w", err)
	}
	b.m.spawn(func(ctx context.Context) {
		defer sub.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-sub.Out():
				if e, ok := e.(event.EvtPeerIdentificationCompleted); ok && b.m.IsMember(e.Peer) {
					b.told(e.Peer)
				}
			}
		}
	})
	return nil
}

// seen notes when the last connection went.
func (b *peerBook) seen(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p).seen = time.Now()
	b.dirty = true
}

// addrs is where p may be dialled, best first.
func (b *peerBook) addrs(p peer.ID) []ma.Multiaddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.known[p]; c != nil {
		return slices.Clone(c.addrs)
	}
	return nil
}

// shun lets a member that refuses this node be for a while.
func (b *peerBook) shun(p peer.ID, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p).next = time.Now().Add(d)
}

// save keeps the book if it has changed, with what identify told meanwhile.
func (b *peerBook) save() error {
	b.mu.Lock()
	dirty := b.dirty
	b.dirty = false
	seen := map[peer.ID]time.Time{}
	for p, c := range b.known {
		seen[p] = c.seen
	}
	b.mu.Unlock()
	if !dirty {
		return nil
	}
	var s peersState
	for p, at := range seen {
		if h, ok := b.hint(p); ok && b.m.IsMember(p) {
			s.Hints = append(s.Hints, h)
			s.Seen = append(s.Seen, at.Unix())
		}
	}
	return b.m.putState(statePeers, s)
}

// away returns the members that no direct connection is open to. The caller must not
// change it. It is asked for often, and looks at all members only when something has
// changed.
func (b *peerBook) away() []peer.ID {
	v := b.m.view.Load()
	b.mu.Lock()
	out, fresh, stirs := b.out, b.scanned == v, b.stirs
	b.mu.Unlock()
	if fresh {
		return out
	}
	direct := map[peer.ID]bool{b.m.host.ID(): true}
	for _, c := range b.m.host.Network().Conns() {
		if wayOf(c) != Relayed {
			direct[c.RemotePeer()] = true
		}
	}
	out = slices.DeleteFunc(b.m.Members(), func(p peer.ID) bool { return direct[p] })
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stirs == stirs {
		b.scanned, b.out = v, out
	}
	return out
}

// stirred notes that a connection has come or gone.
func (b *peerBook) stirred() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stirs++
	b.scanned = nil
}

// due returns the members to dial now, and marks them as being dialled.
func (b *peerBook) due(now time.Time) []peer.ID {
	away := slices.Clone(b.away())
	for p := range b.static {
		if !b.m.IsMember(p) && p != b.m.host.ID() &&
			(b.m.host.Network().Connectedness(p) != network.Connected || onlyRelayed(b.m.host, p)) {
			away = append(away, p)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	most := redialMost * time.Duration(1+len(away)/redialSmall)
	due := slices.DeleteFunc(away, func(p peer.ID) bool { return b.of(p).dialing || now.Before(b.of(p).next) })
	for _, p := range due {
		c := b.of(p)
		c.dialing = true
		wait := min(most, redialFirst<<min(c.failed, 10))
		if b.m.host.Network().Connectedness(p) == network.Connected {
			wait = min(directEvery, directFirst<<min(c.failed, 10))
		}
		c.next = now.Add(wait/2 + rand.N(wait))
		c.failed++
	}
	return due
}

func (b *peerBook) dialled(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p).dialing = false
}

// redialLoop dials every member that is not connected, for ever: libp2p and
// kad-dht would leave a healed partition as it is.
func (m *Mesh) redialLoop(ctx context.Context) error {
	slots := make(chan struct{}, redialAtOnce)
	tick := time.NewTicker(redialTick)
	defer tick.Stop()
	var dials sync.WaitGroup
	defer dials.Wait()
	for {
		for _, p := range m.peers.due(time.Now()) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				m.peers.dialled(p)
				return ctx.Err()
			}
			dials.Go(func() {
				defer func() { <-slots }()
				defer m.peers.dialled(p)
				m.dial(ctx, p)
			})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.redial:
		case <-tick.C:
		}
	}
}

func (m *Mesh) dial(ctx context.Context, p peer.ID) {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	if onlyRelayed(m.host, p) {
		m.dialDirect(ctx, p)
		return
	}
	addrs := m.peers.addrs(p)
	if len(addrs) == 0 {
		return
	}
	clearBackoff(m.host, p)
	m.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
	if err := m.host.Connect(ctx, peer.AddrInfo{ID: p}); err != nil {
		if ctx.Err() == nil {
			m.log.Debug("dial a member", "peer", p, "err", err)
		}
		return
	}
	if m.peers.static[p] && !m.IsMember(p) {
		m.greet(ctx, p)
	}
}

// clearBackoff makes the swarm try now: it would wait minutes after failures.
func clearBackoff(h host.Host, p peer.ID) {
	if s, ok := h.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p)
	}
}

// isLAN reports whether an address is of a local network.
func isLAN(a ma.Multiaddr) bool { return manet.IsPrivateAddr(a) || manet.IsIPLoopback(a) }
