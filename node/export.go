package node

import (
	"context"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// Export implements Control. A running office first gets what it lacks of the
// files that are wanted, as for a client; what cannot be had is refused with the
// reason, and the rest is written all the same.
func (n *Node) Export(ctx context.Context, e Export, progress func(store.Progress)) (*Transferred, error) {
	var missing []verify.Name
	for _, name := range e.Want {
		if e.Only && !n.has(name) {
			missing = append(missing, name)
		}
	}
	got, err := n.Prefetch(ctx, missing, progress)
	if err != nil {
		return got, err
	}
	why := make(map[string]string, len(got.Refused))
	for _, r := range got.Refused {
		why[r.File] = r.Reason
	}
	t, err := n.keeper.Export(ctx, e, progress)
	for i := range t.Refused {
		if reason, ok := why[t.Refused[i].File]; ok {
			t.Refused[i].Reason = reason
		}
	}
	return t, err
}
