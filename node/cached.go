package node

import (
	"context"

	"github.com/meshproxy/meshproxy/verify"
)

// collect brings a file from another office for a request that forbids to fetch it,
// where the operator counts what other offices hold as held. The upstream is not
// asked, and an error only means that it is not held.
func (n *Node) collect(ctx context.Context, name verify.Name) {
	_, err := n.arrivals.do(ctx, flightKey(ctx, "held "+name.String()), limitOf(name.Kind), func(ctx context.Context) (origin, error) {
		e := errand{Node: n, name: name}
		from, err := e.fromMesh(ctx)
		e.land(err)
		return from, err
	})
	if err != nil {
		n.log.Debug("no other office holds what a client may have from there only", "file", name.String(), "err", err)
	}
}
