package node

import (
	"context"
	"maps"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

// followers is how many records are admitted at once; they share syncs to disk.
const followers = 32

// follow brings records that others lead to, as far as other offices have them. The
// go command reads a module graph a few files at a time, and each would cost a round
// trip; an office that hands over one go.mod names those that it leads to, and here
// they are asked for in one question. Nothing is fetched from an upstream for it.
type follow struct {
	mu    sync.Mutex
	under map[verify.Name]chan struct{} // guarded by mu; closed when the attempt has ended
}

func newFollow() *follow { return &follow{under: make(map[verify.Name]chan struct{})} }

// attempt is names that one question is about, each with what is closed when it has
// been answered.
type attempt map[verify.Name]chan struct{}

// claim returns those of names that nobody follows yet. The attempt at each of them
// ends with done.
func (f *follow) claim(names []verify.Name) attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	mine := make(attempt)
	for _, name := range names {
		if f.under[name] == nil {
			f.under[name] = make(chan struct{})
			mine[name] = f.under[name]
		}
	}
	return mine
}

// done ends the attempt at these names, as far as it has not ended.
func (f *follow) done(a attempt, names ...verify.Name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		if ended := a[name]; ended != nil && f.under[name] == ended {
			close(ended)
			delete(f.under, name)
		}
	}
}

// follows reports whether there is an attempt at name.
func (f *follow) follows(name verify.Name) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.under[name] != nil
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
	names := make([]verify.Name, len(mods))
	for i, m := range mods {
		names[i] = verify.Name{Module: m, Kind: verify.Mod}
	}
	n.follow(ctx, n.following.claim(n.unrecorded(names)))
}

// unrecorded are those of names that nothing is known of here.
func (n *Node) unrecorded(names []verify.Name) []verify.Name {
	return slices.DeleteFunc(names, func(name verify.Name) bool {
		if name.Check() != nil {
			return true
		}
		_, err := n.store.Record(name)
		return err == nil
	})
}

// follow admits records from other offices.
func (n *Node) follow(ctx context.Context, a attempt) {
	names := slices.Collect(maps.Keys(a))
	defer n.following.done(a, names...)
	if len(names) == 0 {
		return
	}
	ctx, span := n.own(ctx, "follow", names[0].String())
	span.SetAttributes(attribute.Int("meshproxy.names", len(names)))
	reply, err := n.exchange().Records(ctx, names, exchange.RecordsOptions{})
	ended(span, err)
	if err != nil {
		n.log.Debug("records that were to come along were not had", "files", len(names), "err", err)
		return
	}
	var g errgroup.Group
	g.SetLimit(followers)
	for _, f := range reply.Found {
		g.Go(func() error {
			defer n.following.done(a, f.Name)
			e := errand{Node: n} // for no name: of a zip the record is enough
			if _, err := e.take(ctx, f); err == nil {
				n.log.Debug("came along", "file", f.Name.String())
				if f.Name.Kind == verify.Mod {
					n.foreseen.learn()
				}
			}
			return nil // what did not come is asked for when it is wanted
		})
	}
	g.Wait()
}
