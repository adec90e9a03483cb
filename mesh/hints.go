package mesh

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// newsAge is for how long a move of a member is passed on by those that it told of it.
const newsAge = 5 * time.Minute

// ownAge is after what time a member is told this node's own addresses again: it may
// have lost the answer in which they were.
const ownAge = 10 * time.Minute

// told is what a member has been told over the connections that it has.
type told struct {
	own      [][]byte  // this node's addresses
	ownAt    time.Time // when it was told them
	at       time.Time // of the last exchange
	arrivals uint64    // of the roster up to which it has all; 0 if that is not known
}

// own is where this node says that it is. That identify tells it, too, is not enough:
// over a connection between public addresses it says nothing of private ones, nor of
// relays at private ones.
func (b *peerBook) own() member.Hint { return hintOf(b.m.signer.Public, fewer(b.m.host.Addrs())) }

// news is what p has not been told of where members are: this node, if its addresses
// have changed, those who have said lately that theirs have, and whom it asks about.
// Of all others it needs to hear nothing, since it is connected to them.
func (b *peerBook) news(p peer.ID, asked []member.Key) []member.Hint {
	own := b.own()
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.of(p)
	var out []member.Hint
	now := time.Now()
	if !sameAddrs(c.told.own, own.Addrs) || now.Sub(c.told.ownAt) > ownAge {
		out = append(out, own)
		c.told.own, c.told.ownAt = own.Addrs, now
	}
	moved := b.movedSince(c.told.at, p)
	c.told.at = now
	for _, k := range append(moved, asked[:min(len(asked), maxHints)]...) {
		q := k.Peer()
		known := b.known[q]
		if len(out) >= maxHints || known == nil || len(known.addrs) == 0 || b.m.host.Network().Connectedness(q) != network.Connected {
			continue
		}
		out = append(out, hintOf(k, known.addrs))
	}
	return out
}

// movedSince is who but p has told this node of a move after a time, the latest ones
// first. The caller holds mu.
func (b *peerBook) movedSince(at time.Time, p peer.ID) []member.Key {
	at = latest(at, time.Now().Add(-newsAge))
	var moved []peer.ID
	for q, c := range b.known {
		if q != p && c.moved.After(at) {
			moved = append(moved, q)
		}
	}
	slices.SortFunc(moved, func(p, q peer.ID) int { return b.known[q].moved.Compare(b.known[p].moved) })
	var keys []member.Key
	for _, q := range moved[:min(len(moved), maxHints/4)] {
		if k, err := member.KeyOf(q); err == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sameAddrs(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

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

// hear takes what p says about where members are, and reports whether there was
// anything new in it. It is only ever a place to dial: whoever answers there has to
// prove its key.
func (b *peerBook) hear(p peer.ID, hints []member.Hint) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range hints[:min(len(hints), member.MaxMembers)] {
		if h.Peer.Peer() == p {
			b.heardOf(p, h.Addrs)
		}
		ai := addrInfo(b.unknown(h))
		if ai.ID == "" || ai.ID == b.m.host.ID() || len(ai.Addrs) == 0 {
			continue
		}
		if b.known[ai.ID] == nil && len(b.known) >= 2*member.MaxMembers {
			return news
		}
		if c := b.of(ai.ID); c.suggest(ai.Addrs) {
			b.dirty, news = true, true
			c.failed, c.next = 0, time.Time{} // what was tried in vain is not all there is
		}
	}
	return news
}

// heardOf notes where p says that it is itself. If that has changed, it is news to
// others; what it says first is not, because they ask when they want to know. The
// caller holds mu.
func (b *peerBook) heardOf(p peer.ID, addrs [][]byte) {
	c := b.of(p)
	addrs = addrs[:min(len(addrs), maxHintAddrs)]
	if slices.ContainsFunc(addrs, func(raw []byte) bool { return len(raw) > maxHintAddr }) {
		return
	}
	if c.own != nil && !sameAddrs(c.own, addrs) {
		c.moved = time.Now()
	}
	c.own = addrs
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
	return member.Hint{Peer: h.Peer, Addrs: slices.DeleteFunc(slices.Clone(h.Addrs), known)}
}

// missing is whose addresses this node would like to hear, for others to tell:
// members that it knows no address of, or could not reach at those that it knows.
func (b *peerBook) missing() []member.Key {
	away := b.away()
	b.mu.Lock()
	defer b.mu.Unlock()
	var wanted []peer.ID
	for _, p := range away { // members only
		if c := b.known[p]; c == nil || len(c.addrs) == 0 || c.failed > 1 {
			wanted = append(wanted, p)
		}
	}
	rand.Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
	var keys []member.Key
	for _, p := range wanted[:min(len(wanted), maxHints)] {
		if k, err := member.KeyOf(p); err == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// blank reports whether there are members that this node knows no address of.
func (b *peerBook) blank() bool {
	away := b.away()
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(away, func(p peer.ID) bool { return b.known[p] == nil || len(b.known[p].addrs) == 0 })
}

// knowsAny reports whether this node could tell where any of these members is.
func (b *peerBook) knowsAny(asked []member.Key) bool {
	return slices.ContainsFunc(asked, func(k member.Key) bool {
		p := k.Peer()
		return b.m.host.Network().Connectedness(p) == network.Connected && len(b.addrs(p)) > 0
	})
}

// upTo is the number of arrivals in the roster up to which p is known to have all, 0 if
// that is not known.
func (b *peerBook) upTo(p peer.ID) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.known[p]; c != nil {
		return c.told.arrivals
	}
	return 0
}

// hasAll notes that p has what the roster had after so many arrivals. The last one to say
// so is right, not the one with the most: the number may be of a roster that this node
// has left, if the exchange began before that.
func (b *peerBook) hasAll(p peer.ID, arrivals uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p).told.arrivals = arrivals
}

// forget says that nothing is known of what p was told: an exchange has failed, or the
// connections are gone.
func (b *peerBook) forget(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.known[p]; c != nil {
		c.told = told{}
	}
}

// forgetAll is forget for everybody: the node has another roster.
func (b *peerBook) forgetAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.known {
		c.told = told{}
	}
}

// behind leaves of some members those that have something to be told: news of the
// roster, or this node's own addresses.
func (b *peerBook) behind(peers []peer.ID, arrivals uint64) []peer.ID {
	own := b.own().Addrs
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(peers, func(p peer.ID) bool {
		c := b.known[p]
		return c != nil && c.told.arrivals >= arrivals && sameAddrs(c.told.own, own)
	})
}

// hints is what a token tells of members in touch, some of them.
func (b *peerBook) hints(most int) (out []member.Hint) {
	touch := b.m.Connected()
	rand.Shuffle(len(touch), func(i, j int) { touch[i], touch[j] = touch[j], touch[i] })
	for _, p := range touch {
		if h, ok := b.hint(p); ok && len(out) < most {
			out = append(out, h)
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
