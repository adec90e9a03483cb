package node

import (
	"context"
	"strings"
	"time"

	"github.com/meshproxy/meshproxy/store"
)

// addrsKey is where a node keeps the addresses at which it was reached, for
// invitations that are made while it does not run.
const addrsKey = "node/addresses"

const addrsPeriod = time.Minute

// saveAddrs keeps them up to date until ctx ends. They change when a port is
// chosen, when a cable is plugged, when a router is asked for a port.
func (n *Node) saveAddrs(ctx context.Context) error {
	tick := time.NewTicker(addrsPeriod)
	defer tick.Stop()
	last := ""
	for {
		var addrs []string
		for _, a := range n.mesh.Addrs() {
			addrs = append(addrs, a.String())
		}
		if now := strings.Join(addrs, "\n"); now != last && now != "" {
			if err := n.store.SetMeta(addrsKey, []byte(now)); err != nil {
				n.log.Warn("cannot keep this node's addresses", "err", err)
			}
			last = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func savedAddrs(s *store.Store) []string {
	text, err := s.Meta(addrsKey)
	if err != nil {
		return nil // it never ran: then its invitations lead nowhere, and mesh says so
	}
	return strings.Split(string(text), "\n")
}
