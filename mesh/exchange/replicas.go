package exchange

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/verify"
)

const (
	// maxRepairWait bounds a copy, with the wait for another office that is at it. What
	// is not copied by then is looked at again.
	maxRepairWait = 15 * time.Minute
	// maxLacked bounds what a repairer remembers of zips that others should have
	// copied.
	maxLacked = 1 << 16
)

// repairKey is what members claim who want to make a copy of a zip. It is at home
// where answers about the module are, and no answer is ever kept under it.
func repairKey(n verify.Name) string { return n.Module.Path + " repair " + n.Module.Version }

// keepers are the members that see to the copies of a zip, nearest first: its home
// peers, and more until they stand in one office more than copies are wanted, so
// that somebody is left when one cannot.
func (r *repairer) keepers(around *ring, n verify.Name) []peer.ID {
	all := r.x.homes(around, homeKey(n), n.Module.Path, len(around.ids))
	offices := map[string]bool{}
	for i, p := range all {
		if i >= r.x.cfg.Homes && len(offices) > r.o.Replicas {
			return all[:i]
		}
		offices[r.office(p)] = true
	}
	return all
}

// copy pulls the zips among names of which there are too few, if it is this node's
// turn. full says that this is a look at everything.
func (r *repairer) copy(ctx context.Context, around *ring, names []verify.Name, full bool) error {
	var lacking []verify.Name
	for _, n := range names {
		if n.Kind != verify.Zip || !slices.Contains(r.keepers(around, n), r.x.self) {
			continue
		}
		if s, err := r.x.cfg.Backend.Record(n); err == nil && !r.x.cfg.Backend.HasZip(s.Record.Digest) {
			lacking = append(lacking, n)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	reply, err := r.x.Records(ctx, lacking, RecordsOptions{Brief: true, All: true})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(repairPulls)
	for _, f := range reply.Found {
		if r.due(around, r.x.alsoHeard(f), full) {
			g.Go(func() error {
				if err := r.copyOne(ctx, f.Name); err != nil {
					return fmt.Errorf("copy of %v: %w", f.Name, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// due reports whether this node is to see to a zip now: it is its turn, or would be
// without those whose turn it was at earlier looks and who have not made a copy.
func (r *repairer) due(around *ring, f Found, full bool) bool {
	if len(f.Own) == 0 {
		// In a large mesh those who hold it may not be among those asked. That one of
		// them is named is enough to look closer: the census asks them and counts.
		i := slices.IndexFunc(f.Holders, func(p peer.ID) bool {
			return p != r.x.self && r.x.cfg.Host.Network().Connectedness(p) == network.Connected
		})
		if i >= 0 {
			f.Own = f.Holders[i : i+1]
		}
	}
	h := r.hash(f.Name)
	short, mine := r.turn(around, f, r.lacked[h])
	switch {
	case !short:
		delete(r.lacked, h)
	case full && !mine:
		if len(r.lacked) >= maxLacked {
			clear(r.lacked)
		}
		r.lacked[h]++
	}
	return mine
}

// copyOne pulls a zip if there are too few still once nobody else is about to. Those
// who look at the same loss do so one after the other, and each counts anew: to
// hear too late of a copy makes nobody make another one.
func (r *repairer) copyOne(ctx context.Context, n verify.Name) error {
	ctx, cancel := context.WithTimeout(ctx, maxRepairWait)
	defer cancel()
	s, err := r.x.cfg.Backend.Record(n)
	if err != nil {
		return err
	}
	claim, err := r.x.ClaimAnswer(ctx, repairKey(n), 0)
	if err != nil {
		return err
	}
	if claim.Outcome != Fetch {
		return nil // nobody ends such a claim with a result: the next look tells
	}
	defer claim.Lease.Close()
	f, err := r.x.census(ctx, n)
	if err != nil {
		return err
	}
	_, connected := r.x.others(true)
	around := newRing(append(slices.Clone(connected), r.x.self))
	if _, mine := r.turn(around, f, len(around.ids)); !mine {
		return nil
	}
	err = claim.Lease.during(ctx, func(ctx context.Context) error { return r.o.Holdings.Obtain(ctx, s, f.Holders) })
	if err == nil {
		r.x.metrics.repaired.Inc()
	}
	return err
}

// during calls f, and says meanwhile that it makes progress: f watches for itself
// that it does.
func (l *Lease) during(ctx context.Context, f func(context.Context) error) error {
	g, gctx := errgroup.WithContext(ctx)
	over := make(chan struct{})
	g.Go(func() error {
		defer close(over)
		return f(gctx)
	})
	g.Go(func() error {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.Progress(1)
			case <-over:
				return nil
			}
		}
	})
	return g.Wait()
}

// census finds out who holds a zip as well as can be: every member asked is waited
// for while it is connected, and holders that others name are asked too. Who is
// connected and does not answer counts as what others say of it. Own are then the
// members to count.
func (x *Exchange) census(ctx context.Context, n verify.Name) (Found, error) {
	reply, err := x.Records(ctx, []verify.Name{n}, RecordsOptions{Brief: true, All: true, Patient: true})
	if err != nil {
		return Found{}, err
	}
	f := x.alsoHeard(reply.Found[0])
	for _, p := range f.Holders {
		if slices.Contains(f.Own, p) || p == x.self || !x.cfg.Members.IsMember(p) || !x.shares(p, n.Module.Path) ||
			x.cfg.Host.Network().Connectedness(p) != network.Connected {
			continue
		}
		entries, err := x.briefly(ctx, p, []verify.Name{n}, false)
		if ctx.Err() != nil {
			return f, ctx.Err()
		}
		silent := err != nil && x.cfg.Host.Network().Connectedness(p) == network.Connected
		if silent || err == nil && entries[0] != nil && entries[0].Held {
			f.Own = append(f.Own, p)
		}
	}
	return f, nil
}

// alsoHeard adds holders that this node was told of to those that others name: it may
// be the only one left whom they told.
func (x *Exchange) alsoHeard(f Found) Found {
	if s, err := x.cfg.Backend.Record(f.Name); err == nil {
		f.Holders = union(f.Holders, x.liveHolders(s.Record.Digest))
	}
	return f
}

// turn reports whether a zip is held in too few offices, and whether this node is to
// pull it: among the nearest members in other offices it is one of those who make
// up the number, or would be if the first so many that are passed over cannot.
func (r *repairer) turn(around *ring, f Found, pass int) (short, mine bool) {
	offices := map[string]bool{}
	for _, p := range f.Own {
		offices[r.office(p)] = true
	}
	lack := r.o.Replicas - len(offices)
	if lack <= 0 || len(f.Own) == 0 { // enough, or nobody to get it from
		return false, false
	}
	for _, p := range r.x.homes(around, homeKey(f.Name), f.Name.Module.Path, len(around.ids)) {
		office := r.office(p)
		if offices[office] {
			continue
		}
		if p == r.x.self {
			return true, true
		}
		offices[office] = true
		if lack--; lack <= 0 {
			if pass--; pass < 0 {
				return true, false
			}
		}
	}
	return true, false
}

// office is where a peer stands; one whose office is not known stands alone.
func (r *repairer) office(p peer.ID) string {
	if name := r.x.cfg.Members.Office(p); name != "" {
		return "office " + name
	}
	return "peer " + string(p)
}
