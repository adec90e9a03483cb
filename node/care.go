package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// heal brings a damaged file back: from other offices, or from the upstream that
// the module came from. It is store.Options.Heal.
func (n *Node) heal(ctx context.Context, sum verify.Digest) error {
	zips, err := n.store.Needs(ctx, sum)
	if err != nil {
		return err
	}
	var errs []error
	for _, held := range zips {
		err := n.fetchAgain(ctx, verify.Name{Module: held.Module, Kind: verify.Zip})
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return errors.New("no module version is known that has this file")
	}
	return errors.Join(errs...)
}

// fetchAgain obtains a file that the store cannot give.
func (n *Node) fetchAgain(ctx context.Context, name verify.Name) error {
	if err := name.Check(); err != nil {
		return err
	}
	_, err := n.arrivals.do(ctx, name.String(), limitOf(name.Kind), func(ctx context.Context) (origin, error) {
		return n.obtain(ctx, name, nil)
	})
	return err
}

// dryRun marks the context of a GC that drops nothing.
type dryRun struct{}

// GC implements Control.
func (n *Node) GC(ctx context.Context, o Limits, progress func(store.Progress)) (*Collected, error) {
	return n.keeper.GC(context.WithValue(ctx, dryRun{}, o.DryRun), o, progress)
}

// mayDrop reports whether another office holds a zip too, so that this one may
// give it up. An office that knows no other one decides for itself. Of two offices
// that want to drop the last two copies at the same time, one is refused: see
// exchange.MayDrop.
func (n *Node) mayDrop(ctx context.Context, root verify.Digest) (bool, error) {
	known, reached := n.reach()
	switch {
	case known == 0:
		return true, nil
	case reached == 0:
		return false, fmt.Errorf("none of the %d other offices is connected", known)
	}
	m, err := zipModule(n.store, root)
	if err != nil {
		return false, err
	}
	name := verify.Name{Module: m, Kind: verify.Zip}
	if ctx.Value(dryRun{}) == true {
		copies, err := n.exchange().Copies(ctx, []verify.Name{name})
		return err == nil && len(copies[0]) > 0, err
	}
	ok, err := n.exchange().MayDrop(ctx, name, root, 1)
	if !ok || err != nil {
		return false, err
	}
	return true, n.mesh.Withhold(ctx, root)
}

// mayDrop is the same for a node that does not run: it can ask nobody.
func (o *Offline) mayDrop(context.Context, verify.Digest) (bool, error) {
	m, err := o.openMesh()
	if err != nil {
		return false, err
	}
	if others := len(m.Members()) - 1; others > 0 {
		return false, fmt.Errorf("the %d other offices can only be asked by a running node", others)
	}
	return true, nil
}

// zipModule is the module version that a zip is of: every name in its listing
// begins with it.
func zipModule(s *store.Store, root verify.Digest) (module.Version, error) {
	text, err := s.Listing(root)
	if err != nil {
		return module.Version{}, err
	}
	line, _, _ := strings.Cut(string(text[:min(len(text), 4096)]), "\n")
	_, name, _ := strings.Cut(line, "  ")
	path, rest, _ := strings.Cut(name, "@")
	version, _, _ := strings.Cut(rest, "/")
	m := module.Version{Path: path, Version: version}
	if err := module.Check(m.Path, m.Version); err != nil {
		return module.Version{}, fmt.Errorf("zip %s: %w", root.H1(), err)
	}
	return m, nil
}

// upkeep is what a store last did to keep itself small and whole.
func upkeep(s *store.Store) Upkeep {
	last := s.Upkeep()
	u := Upkeep{
		Damaged: int(s.Accounting().Damaged), Scrubbing: last.Scrubbing, Scrubbed: last.Scrubbed, Found: last.Found, Lost: last.Lost,
		Collected: last.Collected, Dropped: last.Dropped, Kept: last.Kept, Freed: last.Freed,
	}
	if pins, err := s.Pins(); err == nil {
		u.Pins = len(pins)
	}
	return u
}
