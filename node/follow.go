package node

import (
	"context"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

// followers is how many records are admitted at once; they share syncs to disk.
const followers = 32

// follow brings the go.mod files that others require, as far as other offices hold
// them. The go command reads a module graph a few files at a time, and each would
// cost a round trip; an office that hands over one go.mod names those that it
// leads to, and here they are asked for in one question. Nothing is fetched from
// an upstream for it.
type follow struct {
	mu    sync.Mutex
	under map[verify.Name]chan struct{} // guarded by mu; closed when the attempt has ended
}

func newFollow() *follow { return &follow{under: make(map[verify.Name]chan struct{})} }

// claim returns those of names that nobody follows yet, and ends their attempt
// with done.
func (f *follow) claim(names []verify.Name) (mine []verify.Name, done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ended := make(chan struct{})
	for _, name := range names {
		if f.under[name] == nil {
			f.under[name] = ended
			mine = append(mine, name)
		}
	}
	return mine, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, name := range mine {
			delete(f.under, name)
		}
		close(ended)
	}
}

// wait returns when nobody follows name any more, or ctx ends. It reports whether
// anybody did.
func (f *follow) wait(ctx context.Context, name verify.Name) bool {
	f.mu.Lock()
	ended := f.under[name]
	f.mu.Unlock()
	if ended == nil {
		return false
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return true
}

// followMods admits go.mod files of these module versions from other offices.
func (n *Node) followMods(ctx context.Context, mods []module.Version) {
	var names []verify.Name
	for _, m := range mods {
		name := verify.Name{Module: m, Kind: verify.Mod}
		if name.Check() == nil && !n.has(name) {
			names = append(names, name)
		}
	}
	names, done := n.following.claim(names)
	defer done()
	if len(names) == 0 {
		return
	}
	reply, err := n.exchange().Records(ctx, names, exchange.RecordsOptions{})
	if err != nil {
		n.log.Debug("required go.mod files were not had", "files", len(names), "err", err)
		return
	}
	var g errgroup.Group
	g.SetLimit(followers)
	for _, f := range reply.Found {
		g.Go(func() error {
			e := errand{Node: n, name: f.Name}
			if _, err := e.take(ctx, f); err == nil {
				n.log.Debug("came along", "file", f.Name.String())
			}
			return nil // what did not come is asked for when it is wanted
		})
	}
	g.Wait()
}
