package node

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/verify"
)

// proofsAtOnce is how many lookups are foreseen at the same time.
const proofsAtOnce = 32

// foreseeLookups begins to look up the modules whose go.mod came along, once a client
// looks up any: one without a go.sum will ask for all, a few at a time, and in a large
// database each takes a tile of its own from another office. The proofs in the records
// tell all but these tiles. Where there is an upstream nothing is foreseen, because it
// would be the one to be asked.
func (n *Node) foreseeLookups(sub string) {
	if !strings.HasPrefix(sub, "lookup/") || !n.isOff() {
		return
	}
	mods := n.foreseen.unproven()
	if len(mods) == 0 {
		return
	}
	n.questions.later(func(ctx context.Context) {
		var g errgroup.Group
		g.SetLimit(proofsAtOnce)
		for _, m := range mods {
			name := verify.Name{Module: m, Kind: verify.Mod}
			if signed, err := n.store.Record(name); err != nil || signed.Record.Vouch.Proof == nil {
				continue
			}
			g.Go(func() error {
				if _, _, err := n.trust().Expect(ctx, name); err != nil {
					n.log.Debug("not looked up ahead", "module", m.String(), "err", err)
				}
				return nil // it is looked up when it is wanted
			})
		}
		g.Wait()
	})
}
