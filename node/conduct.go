package node

import (
	"context"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Peers implements Control. It says of each office how often it lied, and
// how much came from it.
func (n *Node) Peers(ctx context.Context) ([]Peer, error) {
	list, err := n.keeper.Peers(ctx)
	for i := range list {
		if p, err := peer.Decode(list[i].ID); err == nil {
			list[i].Lies, list[i].Received = n.exchange().Lies(p), n.counts.receivedFrom(p)
		}
	}
	return list, err
}

// alarms is what an operator must act on.
func (n *Node) alarms() []string {
	list := n.mesh.Alarms()
	for _, db := range n.databases {
		if forks := len(db.Forks()); forks > 0 {
			list = append(list, fmt.Sprintf("checksum database %s signed different histories (%d times); the evidence is in: meshproxy conflicts --json",
				db.Name(), forks))
		}
	}
	return list
}
