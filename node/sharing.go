package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// DefaultReplicas is how many offices hold each zip: one may burn.
const DefaultReplicas = 2

// Sharing says how much an office does for the others.
type Sharing struct {
	// Replicas is how many offices hold each zip, as far as this one can see to it; at
	// 1 it makes no copies for the others' sake. Default: DefaultReplicas
	Replicas int
	// Settle is how long members may come and go before lost copies are made again;
	// the wait is once to twice as long. Default: a minute
	Settle time.Duration
	// Up and Down limit what is sent to other offices and received from them, in
	// bytes a second; 0 is no limit.
	Up, Down exchange.Bandwidth
}

// ReplicaLister is the part of Control that tells where copies are.
type ReplicaLister interface {
	// Replicas calls each with the offices that hold a zip, for every zip that this
	// office holds or has the record of, whose path is prefix or below it. It asks the
	// other offices, so an office that does not run cannot: it is ErrNotRunning.
	Replicas(ctx context.Context, prefix string, each func(Replica) error) error
}

// Replica is a zip and the offices that say now that they hold all of it, in
// alphabetical order. An office out of reach says nothing.
type Replica struct {
	module.Version
	Offices []string `json:"offices"`
}

// repair keeps copies until ctx ends.
func (n *Node) repair(ctx context.Context) error {
	replicas := cmp.Or(n.cfg.Sharing.Replicas, DefaultReplicas)
	err := n.exchange().Repair(ctx, exchange.RepairOptions{Holdings: holdings{n}, Replicas: replicas, Settle: n.cfg.Sharing.Settle})
	return notCanceled(err)
}

// holdings is this office as repair works on it.
type holdings struct{ n *Node }

// Names implements exchange.Holdings. Looking at names takes as long as their zips
// take to be copied: the store is not held open for that.
func (h holdings) Names(ctx context.Context, fn func(verify.Name) error) error {
	var all []store.Release
	err := h.n.store.Releases(ctx, func(r store.Release) error {
		all = append(all, r)
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range all {
		for _, k := range r.Kinds {
			if err := fn(verify.Name{Module: r.Module, Kind: k}); err != nil {
				return err
			}
		}
	}
	return nil
}

// errNoRoom is why no copy is made: it would soon be dropped again.
var errNoRoom = errors.New("no room for copies: files take nearly as much as --max-size allows")

// Obtain implements exchange.Holdings.
func (h holdings) Obtain(ctx context.Context, s *verify.Signed, holders []peer.ID) error {
	if limit, _ := h.n.store.Limits(); limit > 0 && h.n.store.Accounting().FileBytes+s.Record.Size > limit/10*9 {
		return errNoRoom
	}
	ctx, span := h.n.own(ctx, "copy", s.Record.Name.String())
	e := errand{Node: h.n, name: s.Record.Name, class: exchange.Background}
	from, err := e.pull(ctx, s, holders)
	sourced(span, from, err)
	return err
}

// maxReplicaBatch bounds the zips that are asked about in one question.
const maxReplicaBatch = 256

// Replicas implements Control.
func (n *Node) Replicas(ctx context.Context, prefix string, each func(Replica) error) error {
	var batch []verify.Name
	err := n.store.Releases(ctx, func(r store.Release) error {
		if below(prefix, r.Module.Path) && slices.Contains(r.Kinds, verify.Zip) {
			batch = append(batch, verify.Name{Module: r.Module, Kind: verify.Zip})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for names := range slices.Chunk(batch, maxReplicaBatch) {
		copies, err := n.exchange().Copies(ctx, names)
		if errors.Is(err, exchange.ErrUnreached) {
			copies, err = make([][]peer.ID, len(names)), nil // then they are all here
		}
		if err != nil {
			return fmt.Errorf("who holds %v and others: %w", names[0].Module, err)
		}
		for i, name := range names {
			if err := each(Replica{name.Module, n.officesOf(name, copies[i])}); err != nil {
				return err
			}
		}
	}
	return nil
}

// officesOf names the offices of some holders of a zip, this one with them if it
// holds it.
func (n *Node) officesOf(name verify.Name, holders []peer.ID) []string {
	offices := []string{}
	for _, p := range holders {
		offices = append(offices, n.officeOf(p))
	}
	if holds(n.store, name) {
		offices = append(offices, n.Office())
	}
	slices.Sort(offices)
	return slices.Compact(offices)
}

// Replicas implements Control, and is an error: the other offices must be asked.
func (o *Offline) Replicas(context.Context, string, func(Replica) error) error { return ErrNotRunning }

// Replicas implements Control.
func (c *Client) Replicas(ctx context.Context, prefix string, each func(Replica) error) error {
	return askStream(ctx, c, "replicas", prefix, each)
}
