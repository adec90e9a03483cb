package mesh

import (
	"context"
	"errors"

	kbucket "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
)

// errAlone says that a question to the DHT has nobody to go to.
var errAlone = errors.New("no member is connected")

// nearest says where announcements go. Every node is connected to all members in
// reach, so who is nearest to a key is known without asking anybody: a lookup would
// send tens of messages to learn the same.
type nearest struct{ m *Mesh }

// GetClosestPeers returns the connected members nearest to key, at most bucketSize,
// without this node.
func (n nearest) GetClosestPeers(_ context.Context, key string) ([]peer.ID, error) {
	connected := n.m.Connected()
	if len(connected) == 0 {
		return nil, errAlone
	}
	sorted := kbucket.SortClosestPeers(connected, kbucket.ConvertKey(key))
	return sorted[:min(len(sorted), bucketSize)], nil
}

// route gives p a place in the DHT's routing table, if there is one free. kad-dht
// itself would ask each peer a question first, and whoever it found by lookups; who
// is a member that knows this node answers them, as its streams are opened only then.
func (s *session) route(p peer.ID) {
	// What is refused is an extra one: its bucket is full.
	_, _ = s.dht.RoutingTable().TryAddPeer(p, true, false)
}

// routeAll fills places in the routing table that members have left: kad-dht takes
// one out when a question to it fails.
func (m *Mesh) routeAll() {
	s := m.session.Load()
	table := s.dht.RoutingTable()
	for _, p := range m.Connected() {
		if _, ok := m.greeted.Load(p); ok && table.UsefulNewPeer(p) {
			s.route(p)
		}
	}
}
