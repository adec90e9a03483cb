package mesh

import (
	"slices"
	"testing"

	kbucket "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestNearestAreKnown: where an announcement goes is found without a lookup.
func TestNearestAreKnown(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	if got, err := (nearest{berlin.Mesh}).GetClosestPeers(t.Context(), "key"); err == nil {
		t.Errorf("a node alone announces to %v", got)
	}
	lisbon.join(berlin)
	oslo.join(berlin)
	connected(t, berlin, lisbon, oslo)
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		got, err := nearest{berlin.Mesh}.GetClosestPeers(t.Context(), key)
		want := kbucket.SortClosestPeers([]peer.ID{oslo.ID(), lisbon.ID()}, kbucket.ConvertKey(key))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("nearest to %q: %v, %v, want %v", key, got, err, want)
		}
	}
}

// TestRoutingTableIsMembers: whoever is connected has a place in the DHT's table, and
// gets it back when a question to it has failed.
func TestRoutingTableIsMembers(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	table := func(n *testNode) []peer.ID { return n.session.Load().dht.RoutingTable().ListPeers() }
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	for _, pair := range [][2]*testNode{{berlin, lisbon}, {lisbon, berlin}} {
		has := func() bool { return slices.Equal(table(pair[0]), []peer.ID{pair[1].ID()}) }
		eventually(t, pair[0].cfg.Office+" routes through the other one", has)
		pair[0].session.Load().dht.RoutingTable().RemovePeer(pair[1].ID())
		eventually(t, pair[0].cfg.Office+" does so again", has)
	}
	lisbon.stop()
	eventually(t, "berlin routes through nobody", func() bool { return len(table(berlin)) == 0 })
}
