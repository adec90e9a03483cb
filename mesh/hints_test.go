package mesh

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/meshproxy/meshproxy/mesh/member"
	"github.com/meshproxy/meshproxy/verify"
)

// caughtUp waits until two connected nodes have told each other all.
func caughtUp(t *testing.T, a, b *testNode) {
	t.Helper()
	eventually(t, "there is no news between "+a.cfg.Office+" and "+b.cfg.Office, func() bool {
		return len(a.behindOf(b)) == 0 && len(b.behindOf(a)) == 0
	})
}

// behindOf is b if a has something to tell it.
func (n *testNode) behindOf(b *testNode) []peer.ID {
	return slices.DeleteFunc(n.behind(), func(p peer.ID) bool { return p != b.ID() })
}

func keyOf(t *testing.T, n *testNode) member.Key {
	t.Helper()
	k, err := member.KeyOf(n.ID())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestExchangeTellsOnlyNews: where nodes are is told once, and again when it changes.
func TestExchangeTellsOnlyNews(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	for _, n := range []*testNode{berlin, lisbon} { // no places at relays meanwhile
		n.relays.mu.Lock()
		n.relays.public = network.ReachabilityPublic
		n.relays.mu.Unlock()
	}
	eventually(t, "there is no news of addresses", func() bool { return len(berlin.peers.news(lisbon.ID(), nil)) == 0 })
	berlin.relays.hold(lisbon.ID(), seat{time.Now().Add(time.Hour), ma.StringCast("/ip4/192.0.2.1/tcp/4911")})
	if got := berlin.peers.news(lisbon.ID(), nil); len(got) != 1 || got[0].Peer != keyOf(t, berlin) {
		t.Fatalf("berlin has another address, and tells %d hints", len(got))
	}
	if got := berlin.peers.news(lisbon.ID(), nil); len(got) != 0 {
		t.Errorf("berlin tells %d hints once more", len(got))
	}
	berlin.peers.forget(lisbon.ID())
	if got := berlin.peers.news(lisbon.ID(), nil); len(got) != 1 {
		t.Errorf("after an exchange that failed berlin tells %d hints", len(got))
	}
}

// TestMovesArePassedOn: what a member says of a new address is told to others, once.
func TestMovesArePassedOn(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	lisbon.join(berlin)
	oslo.join(berlin)
	connected(t, berlin, lisbon, oslo)
	says := func(last byte) []member.Hint {
		return []member.Hint{{Peer: keyOf(t, oslo), Addrs: [][]byte{ma.StringCast(fmt.Sprintf("/ip4/192.0.2.%d/tcp/4911", last)).Bytes()}}}
	}
	tells := func() bool {
		return slices.ContainsFunc(berlin.peers.news(lisbon.ID(), nil), func(h member.Hint) bool { return h.Peer == keyOf(t, oslo) })
	}
	berlin.peers.mu.Lock()
	berlin.peers.of(oslo.ID()).own, berlin.peers.of(oslo.ID()).moved = nil, time.Time{}
	berlin.peers.mu.Unlock()
	tells()
	if !berlin.peers.hear(oslo.ID(), says(1)) {
		t.Error("an address that nobody knew is no news")
	}
	if tells() {
		t.Error("what oslo says first is passed on: all would hear of each who connects")
	}
	if berlin.peers.hear(oslo.ID(), says(1)) || tells() {
		t.Error("the same again is news")
	}
	berlin.peers.hear(oslo.ID(), says(2))
	if !tells() {
		t.Error("that oslo has moved is not passed on")
	}
	if tells() {
		t.Error("it is passed on twice")
	}
	berlin.peers.hear(lisbon.ID(), says(3)) // hearsay
	if tells() {
		t.Error("hearsay is passed on")
	}
}

// TestMissingMembersAreAskedFor: a node asks for those whom it cannot reach, and is told.
func TestMissingMembersAreAskedFor(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	lisbon.join(berlin)
	oslo.join(berlin)
	connected(t, berlin, lisbon, oslo)
	if got := lisbon.peers.missing(); len(got) != 0 {
		t.Errorf("lisbon is connected to all and asks for %v", got)
	}
	if got := berlin.peers.news(lisbon.ID(), []member.Key{keyOf(t, oslo)}); !slices.ContainsFunc(got, func(h member.Hint) bool { return h.Peer == keyOf(t, oslo) && len(h.Addrs) > 0 }) {
		t.Errorf("berlin is asked for oslo and tells %v", got)
	}
	oslo.stop()
	eventually(t, "lisbon asks for oslo", func() bool { return slices.Contains(lisbon.peers.missing(), keyOf(t, oslo)) })
	eventually(t, "berlin notices", func() bool { return berlin.host.Network().Connectedness(oslo.ID()) != network.Connected })
	if got := berlin.peers.news(lisbon.ID(), []member.Key{keyOf(t, oslo)}); slices.ContainsFunc(got, func(h member.Hint) bool { return h.Peer == keyOf(t, oslo) }) {
		t.Errorf("berlin is out of touch with oslo and tells %v", got)
	}
}

// TestAddressIsFoundThroughOthers: who comes back elsewhere is found through a member
// that it has found.
func TestAddressIsFoundThroughOthers(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	lisbon.join(berlin)
	oslo.join(berlin)
	connected(t, berlin, lisbon, oslo)
	oslo.stop()
	if err := oslo.cfg.State.Put(statePeers, nil); err != nil {
		t.Fatal(err)
	}
	oslo.cfg.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	for _, a := range berlin.host.Network().ListenAddresses() {
		if hasProtocol(a, ma.P_TCP) {
			oslo.cfg.Peers = []string{a.String() + "/p2p/" + berlin.ID().String()}
		}
	}
	oslo.start()
	connected(t, berlin, lisbon, oslo)
}

func TestHintsThatAreTooLong(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	long := make([]byte, maxHintAddr+1)
	many := slices.Repeat([][]byte{ma.StringCast("/ip4/192.0.2.1/tcp/4911").Bytes()}, 10*maxHintAddrs)
	for name, addrs := range map[string][][]byte{"one long address": {long}, "many addresses": many} {
		berlin.peers.hear(lisbon.ID(), []member.Hint{{Peer: keyOf(t, lisbon), Addrs: addrs}})
		berlin.peers.mu.Lock()
		c := berlin.peers.of(lisbon.ID())
		if len(c.own) > maxHintAddrs || slices.ContainsFunc(c.own, func(a []byte) bool { return len(a) > maxHintAddr }) || len(c.addrs) > maxHintAddrs {
			t.Errorf("%s: %d and %d are kept", name, len(c.own), len(c.addrs))
		}
		berlin.peers.mu.Unlock()
	}
}

// TestNewsOfTheRosterIsPushed: what has changed since the last exchange comes along, so
// that no list of IDs is needed.
func TestNewsOfTheRosterIsPushed(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	caughtUp(t, berlin, lisbon)
	lisbon.stop() // so that it hears of the invitation from this test alone
	eventually(t, "berlin notices", func() bool { return berlin.host.Network().Connectedness(lisbon.ID()) != network.Connected })
	eventually(t, "berlin forgets what it has told", func() bool { return berlin.peers.upTo(lisbon.ID()) == 0 })
	berlin.peers.hasAll(lisbon.ID(), berlin.roster.Arrivals())
	berlin.invite(InviteOptions{})
	open, _ := berlin.opening(lisbon.ID(), nil)
	if len(open.Fresh) != 1 {
		t.Fatalf("one statement is new, %d are told", len(open.Fresh))
	}
	lisbon.accept(berlin.ID(), open.Fresh)
	if lisbon.roster.Sum() != open.Sum {
		t.Error("the rosters differ after that")
	}
	berlin.peers.forget(lisbon.ID())
	if open, _ := berlin.opening(lisbon.ID(), nil); len(open.Fresh) != 0 {
		t.Errorf("%d statements are told to one of whom nothing is known", len(open.Fresh))
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
