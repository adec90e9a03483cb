package mesh

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/meshproxy/meshproxy/mesh/member"
	"github.com/meshproxy/meshproxy/verify"
)

// crowd makes a node that is in touch with n members, of which it is made to believe
// so: hosts for all of them would be too many.
func crowd(t *testing.T, n int) (*peerBook, []peer.ID) {
	t.Helper()
	a := node(t, "a")
	var all []peer.ID
	for i := range n {
		id, err := peer.IDFromPrivateKey(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		a.peers.mu.Lock()
		a.peers.of(id).prefer([]ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/192.0.2.%d/tcp/4911", i))})
		a.peers.of(id).moved = time.Time{}.Add(time.Duration(i)) // long ago
		a.peers.mu.Unlock()
		all = append(all, id)
	}
	return a.peers, all
}

// TestHintsGoRound: an exchange tells of few members, and a few exchanges of all.
func TestHintsGoRound(t *testing.T) {
	const members = 200
	book, all := crowd(t, members)
	heard := map[peer.ID]bool{}
	for range members/(maxHints/2) + 1 {
		hints := book.hintsOf(all)
		if len(hints) != maxHints {
			t.Fatalf("one exchange tells of %d members, want %d", len(hints), maxHints)
		}
		for _, h := range hints {
			heard[h.Peer.Peer()] = true
		}
	}
	if len(heard) != members {
		t.Errorf("after a round %d of %d were told of", len(heard), members)
	}
	if got := len(book.hintsOf(all[:3])); got != 3 {
		t.Errorf("%d of 3 members are told of", got)
	}
}

// TestHintsTellOfMoves: who has another address is told of at once.
func TestHintsTellOfMoves(t *testing.T) {
	book, all := crowd(t, 200)
	mover := all[77]
	book.mu.Lock()
	book.of(mover).prefer([]ma.Multiaddr{ma.StringCast("/ip4/198.51.100.7/tcp/4911")})
	book.mu.Unlock()
	for range 5 {
		hints := book.hintsOf(all)
		i := slices.IndexFunc(hints, func(h member.Hint) bool { return h.Peer.Peer() == mover })
		if i != 0 {
			t.Fatalf("the member that has moved is told of at place %d", i)
		}
		if a, err := ma.NewMultiaddrBytes(hints[i].Addrs[0]); err != nil || a.String() != "/ip4/198.51.100.7/tcp/4911" {
			t.Errorf("its address is told as %v, %v", a, err)
		}
	}
}

// TestPeersTellWhatTheyHold: an exchange says how much each announces.
func TestPeersTellWhatTheyHold(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	counted := func(want uint32) func() bool {
		return func() bool { n := lisbon.holds.count(); return n != nil && *n == want }
	}
	says := func(want uint32) {
		t.Helper()
		eventually(t, "lisbon has counted", counted(want))
		if err := lisbon.syncNow(t.Context(), berlin.ID()); err != nil {
			t.Fatal(err)
		}
		for _, p := range berlin.Peers() {
			if p.Peer == lisbon.ID() && (p.Zips == nil || *p.Zips != want) {
				t.Errorf("berlin believes that lisbon has %v, want %d", p.Zips, want)
			}
		}
	}
	a, b := verify.DigestOf([]byte("a")), verify.DigestOf([]byte("b"))
	if err := lisbon.Announce(t.Context(), a, b); err != nil {
		t.Fatal(err)
	}
	says(2)
	if err := lisbon.Withhold(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	says(1)
}

func TestOnlyAChangeIsNews(t *testing.T) {
	var h holds
	if h.news() {
		t.Error("it is news before anything was counted")
	}
	for _, n := range []uint32{0, 2, 1} {
		h.zips.Store(&n)
		if !h.news() {
			t.Errorf("that there are %d is no news", n)
		}
		again := n
		h.zips.Store(&again)
		if h.news() {
			t.Errorf("that there are still %d is news", n)
		}
	}
}
