package mesh

import (
	"bytes"
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
	// toldUpTo is the member, in the order of IDs, up to which hints has gone round.
	toldUpTo peer.ID
}

type contact struct {
	addrs   []ma.Multiaddr // best first
	good    int            // how many of them were seen to be right; the rest is hearsay
	seen    time.Time      // when a connection was last open
	failed  int            // dials since
	next    time.Time      // no dial before
	dialing bool
	rtt     time.Duration
	moved   time.Time      // when what was seen to be right last changed
	zips    *uint32        // that it announces, as it said last
	ahead   *time.Duration // of its clock is this machine's
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
	b.hear(saved.Hints)
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
	if slices.ContainsFunc(c.addrs, func(a ma.Multiaddr) bool { return !slices.ContainsFunc(old, a.Equal) }) {
		c.moved = time.Now()
	}
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

// unknown leaves of a hint the addresses that the book does not have: most it has,
// and reading one takes longer than comparing. The caller holds mu.
func (b *peerBook) unknown(h member.Hint) member.Hint {
	c := b.known[h.Peer.Peer()]
	if c == nil {
		return h
	}
	known := func(raw []byte) bool {
		return slices.ContainsFunc(c.addrs, func(a ma.Multiaddr) bool { return bytes.Equal(a.Bytes(), raw) })
	}
	return member.Hint{Peer: h.Peer, Addrs: slices.DeleteFunc(h.Addrs, known)}
}

// hear takes what others say about where members are. It is only ever a place to
// dial: whoever answers there has to prove its key.
func (b *peerBook) hear(hints []member.Hint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range hints[:min(len(hints), member.MaxMembers)] {
		ai := addrInfo(b.unknown(h))
		if ai.ID == "" || ai.ID == b.m.host.ID() || len(ai.Addrs) == 0 {
			continue
		}
		if b.known[ai.ID] == nil && len(b.known) >= 2*member.MaxMembers {
			return
		}
		if c := b.of(ai.ID); c.suggest(ai.Addrs) {
			b.dirty = true
			c.failed, c.next = 0, time.Time{} // what was tried in vain is not all there is
		}
	}
}

// news is what this node tells about where it is itself, and others. That identify
// tells the first, too, is not enough: over a connection between public addresses
// it says nothing of private ones, nor of relays at private ones.
func (b *peerBook) news() []member.Hint {
	return append([]member.Hint{hintOf(b.m.signer.Public, fewer(b.m.host.Addrs()))}, b.hints()...)
}

// fewer picks of a node's own addresses those that fit into a hint; where there
// are too many, ways through relays stay, which work when others do not.
func fewer(addrs []ma.Multiaddr) []ma.Multiaddr {
	over := len(addrs) - maxHintAddrs
	return slices.DeleteFunc(slices.Clone(addrs), func(a ma.Multiaddr) bool {
		if over <= 0 || hasProtocol(a, ma.P_CIRCUIT) {
			return false
		}
		over--
		return true
	})
}

// hints is what this node tells about members in touch.
func (b *peerBook) hints() []member.Hint { return b.hintsOf(b.m.Connected()) }

// hintsOf picks from members in touch. One half of the hints are of those that moved
// last, which is news to most; the other half goes on where the last exchange
// stopped, so that a few exchanges tell of everybody.
func (b *peerBook) hintsOf(touch []peer.ID) []member.Hint {
	touch = slices.Sorted(slices.Values(touch))
	b.mu.Lock()
	defer b.mu.Unlock()
	known := slices.DeleteFunc(touch, func(p peer.ID) bool { return b.known[p] == nil || len(b.known[p].addrs) == 0 })
	chosen := slices.SortedStableFunc(slices.Values(known), func(p, q peer.ID) int { return b.known[q].moved.Compare(b.known[p].moved) })
	chosen = chosen[:min(len(chosen), maxHints/2)]
	next, _ := slices.BinarySearch(known, b.toldUpTo+"\x00")
	for i := range known {
		p := known[(next+i)%len(known)]
		if len(chosen) == maxHints {
			break
		}
		b.toldUpTo = p
		if !slices.Contains(chosen, p) {
			chosen = append(chosen, p)
		}
	}
	var out []member.Hint
	for _, p := range chosen {
		if k, err := member.KeyOf(p); err == nil {
			out = append(out, hintOf(k, b.known[p].addrs))
		}
	}
	return out
}

func (b *peerBook) hint(p peer.ID) (member.Hint, bool) {
	k, err := member.KeyOf(p)
	addrs := b.addrs(p)
	if err != nil || len(addrs) == 0 {
		return member.Hint{}, false
	}
	return hintOf(k, addrs), true
}

func hintOf(k member.Key, addrs []ma.Multiaddr) member.Hint {
	h := member.Hint{Peer: k}
	for _, a := range addrs[:min(len(addrs), maxHintAddrs)] {
		if raw := a.Bytes(); len(raw) <= maxHintAddr {
			h.Addrs = append(h.Addrs, raw)
		}
	}
	return h
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

// due returns the members to dial now, and marks them as being dialled.
func (b *peerBook) due(now time.Time) []peer.ID {
	var away []peer.ID
	targets := b.m.Members()
	for p := range b.static {
		if !b.m.IsMember(p) {
			targets = append(targets, p)
		}
	}
	for _, p := range targets {
		if p != b.m.host.ID() &&
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
