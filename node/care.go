package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshproxy/meshproxy/mesh/exchange"
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
		name := verify.Name{Module: held.Module, Kind: verify.Zip}
		if name.Check() != nil {
			continue
		}
		_, err := n.arrivals.do(ctx, name.String(), zipLimit, func(ctx context.Context) (origin, error) {
			return n.obtain(ctx, name, nil)
		})
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

// mayDrop reports whether another office holds a zip too, so that this one may
// give it up. An office that knows no other one decides for itself.
func (n *Node) mayDrop(ctx context.Context, root verify.Digest) (bool, error) {
	known, reached := n.reach()
	switch {
	case known == 0:
		return true, nil
	case reached == 0:
		return false, fmt.Errorf("none of the %d other offices is connected", known)
	}
	name, err := n.nameOf(ctx, root)
	if err != nil {
		return false, err
	}
	reply, err := n.exchange().Records(ctx, []verify.Name{name}, exchange.RecordsOptions{All: true})
	if err != nil {
		return false, err
	}
	for _, p := range reply.Found[0].Holders {
		if p != n.mesh.ID() {
			return true, nil
		}
	}
	return false, nil
}

// nameOf is the name of a module version whose zip has this root.
func (n *Node) nameOf(ctx context.Context, root verify.Digest) (verify.Name, error) {
	held, err := n.store.Held(ctx)
	if err != nil {
		return verify.Name{}, err
	}
	for _, h := range held {
		if h.Root == root {
			return verify.Name{Module: h.Module, Kind: verify.Zip}, nil
		}
	}
	return verify.Name{}, fmt.Errorf("zip %s: %w", root.H1(), store.ErrNotFound)
}
