package exchange

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// Holdings is what repair works on: everything that this node has a record of.
type Holdings interface {
	// Names calls fn with the name of every record that this node holds, until fn
	// fails.
	Names(ctx context.Context, fn func(verify.Name) error) error
	// Obtain gets the files of a zip from the holders named and commits them.
	Obtain(ctx context.Context, s *verify.Signed, holders []peer.ID) error
}

// RepairOptions says how many copies there shall be, and how fast that is seen to.
type RepairOptions struct {
	Holdings Holdings
	Replicas int           // offices that hold each zip; 0 is 2
	Settle   time.Duration // how long members may come and go before anything moves; 0 is a minute
	Every    time.Duration // between two looks at everything; 0 is an hour
	Soon     time.Duration // from a first fetch elsewhere to a copy here; 0 is 2 s
}

// Defaults of RepairOptions.
const (
	defaultReplicas = 2
	defaultSettle   = time.Minute
	defaultEvery    = time.Hour
	defaultSoon     = 2 * time.Second
)

const (
	repairBatch   = 1024 // names in one question
	repairPulls   = 2    // zips that are pulled at once
	maxArrived    = 4096 // records that wait to be looked at; above, everything is
	maxToldNames  = 1 << 20
	maxSettles    = 5                     // times Settle, after which a look is due however many members come and go
	minRepairPace = 50 * time.Millisecond // between two batches
)

// repairSignals wakes repair. Its methods never block.
type repairSignals struct {
	change chan struct{}
	names  chan verify.Name
}

func newRepairSignals() repairSignals {
	return repairSignals{change: make(chan struct{}, 1), names: make(chan verify.Name, maxArrived)}
}

// changed says that members came or went.
func (r repairSignals) changed() {
	select {
	case r.change <- struct{}{}:
	default:
	}
}

// arrived says that a zip is to be looked at: its record came, or a member said that
// it holds it, of which that was not known.
func (r repairSignals) arrived(n verify.Name) {
	select {
	case r.names <- n:
	default:
		r.changed()
	}
}

// repairer is one run of Repair. Only its goroutine uses it.
type repairer struct {
	x    *Exchange
	o    RepairOptions
	seed maphash.Seed
	told map[peer.ID]map[uint64]struct{} // names that a peer was told of, while it is connected
	size int                             // of told
	// lacked counts, for a zip with too few copies, the looks at which it was the turn
	// of others.
	lacked map[uint64]int
}

// Repair keeps records at their home peers, and zips at as many offices as
// RepairOptions says, until ctx ends. Every node sees to what it knows: it tells
// new home peers of its records, and pulls the zips of which there are too few if
// it is one of the nearest to have them, under a claim, so that two that see the same
// loss make one copy. Members that come and go within Settle move nothing, and each
// node starts at a random moment after that; in a mesh so large that some member
// always comes or goes, it starts after maxSettles times Settle. Looks come in any
// order, so who learns after its own of a record, or of a member that holds a zip,
// looks at that zip again, soon.
func (x *Exchange) Repair(ctx context.Context, o RepairOptions) error {
	if o.Holdings == nil {
		return errors.New("repair: Holdings is missing")
	}
	o.defaults()
	ctx, cancel := x.within(ctx)
	defer cancel()
	r := &repairer{x: x, o: o, seed: maphash.MakeSeed(), told: map[peer.ID]map[uint64]struct{}{}, lacked: map[uint64]int{}}
	look := time.NewTimer(jitter(o.Settle)) // at everything
	defer look.Stop()
	var restless time.Time // since when members come and go; zero is since no time
	var soon <-chan time.Time
	arrived := map[verify.Name]struct{}{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.repair.change:
			r.forgetGone()
			if restless.IsZero() {
				restless = time.Now()
			}
			left := max(maxSettles*o.Settle-time.Since(restless), 0)
			look.Reset(min(o.Settle, left) + jitter(o.Settle))
		case n := <-x.repair.names:
			arrived[n] = struct{}{} // several may say so at once
			if soon == nil {
				soon = time.After(o.Soon + jitter(o.Soon))
			}
			continue
		case <-soon:
			soon = nil
			r.some(ctx, slices.Collect(maps.Keys(arrived)), false)
			clear(arrived)
		case <-look.C:
			restless = time.Time{}
			if err := r.all(ctx); err != nil && ctx.Err() == nil {
				x.log.Warn("repair looks again later", "err", err)
			}
			look.Reset(o.Every/2 + jitter(o.Every))
		}
	}
}

func (o *RepairOptions) defaults() {
	if o.Replicas == 0 {
		o.Replicas = defaultReplicas
	}
	if o.Settle == 0 {
		o.Settle = defaultSettle
	}
	if o.Every == 0 {
		o.Every = defaultEvery
	}
	if o.Soon == 0 {
		o.Soon = defaultSoon
	}
}

func jitter(d time.Duration) time.Duration { return rand.N(max(d, 1)) }

// forgetGone drops what is noted of peers without a connection: when they come
// back they may have been restarted, and are told again.
func (r *repairer) forgetGone() {
	for p, names := range r.told {
		if r.x.cfg.Host.Network().Connectedness(p) != network.Connected {
			r.size -= len(names)
			delete(r.told, p)
		}
	}
}

// all looks at every record.
func (r *repairer) all(ctx context.Context) error {
	var batch []verify.Name
	flush := func() error {
		r.some(ctx, batch, true)
		batch = batch[:0]
		select {
		case <-time.After(minRepairPace):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := r.o.Holdings.Names(ctx, func(n verify.Name) error {
		if batch = append(batch, n); len(batch) < repairBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// some sees to the names given: at most repairBatch of them in a look at everything,
// or those that arrived since the last time.
func (r *repairer) some(ctx context.Context, names []verify.Name, full bool) {
	_, connected := r.x.others(true)
	if len(connected) == 0 || len(names) == 0 {
		return
	}
	for batch := range slices.Chunk(names, repairBatch) {
		around := newRing(append(slices.Clone(connected), r.x.self))
		if err := r.tell(ctx, around, batch); err != nil {
			r.x.log.Debug("some home peers were not told", "err", err)
		}
		if err := r.copy(ctx, around, batch, full); err != nil {
			r.x.log.Info("some zips have too few copies still", "err", err)
		}
	}
}

// errand is what one home peer is to be told.
type errand struct{ held, known []verify.Name }

// tell sees that the home peers of names have their records.
func (r *repairer) tell(ctx context.Context, around *ring, names []verify.Name) error {
	errands := map[peer.ID]*errand{}
	for _, n := range names {
		s, err := r.x.cfg.Backend.Record(n)
		if err != nil {
			continue
		}
		for _, p := range r.tellees(around, n) {
			if _, told := r.told[p][r.hash(n)]; told || p == r.x.self {
				continue
			}
			if errands[p] == nil {
				errands[p] = &errand{}
			}
			if n.Kind != verify.Zip || r.x.cfg.Backend.HasZip(s.Record.Digest) {
				errands[p].held = append(errands[p].held, n)
			} else {
				errands[p].known = append(errands[p].known, n)
			}
		}
	}
	var errs []error
	for p, e := range errands {
		errs = append(errs, r.tellOne(ctx, p, e.held, true), r.tellOne(ctx, p, e.known, false))
	}
	return errors.Join(errs...)
}

// tellOne asks a home peer which of names it has, and pushes the others.
func (r *repairer) tellOne(ctx context.Context, p peer.ID, names []verify.Name, held bool) error {
	if len(names) == 0 {
		return nil
	}
	entries, err := r.x.briefly(ctx, p, names, held)
	if err != nil {
		return err
	}
	var push []*verify.Signed
	for i, n := range names {
		if s, err := r.x.cfg.Backend.Record(n); err == nil && (entries[i] == nil || len(entries[i].Digest) == 0) {
			push = append(push, s)
		}
	}
	if _, err := r.x.PushTo(ctx, p, push, func(*verify.Signed) bool { return held }); err != nil {
		return err
	}
	if r.size > maxToldNames {
		r.told, r.size = map[peer.ID]map[uint64]struct{}{}, 0
	}
	if r.told[p] == nil {
		r.told[p] = map[uint64]struct{}{}
	}
	for _, n := range names {
		r.told[p][r.hash(n)] = struct{}{}
	}
	r.size += len(names)
	return nil
}

func (r *repairer) hash(n verify.Name) uint64 { return maphash.Comparable(r.seed, n) }

// briefly asks one peer about names and tells it whether this node holds their bytes.
// What it knows nothing about is nil.
func (x *Exchange) briefly(ctx context.Context, p peer.ID, names []verify.Name, held bool) ([]*recordsEntry, error) {
	found := make([]Found, len(names))
	w := &question{holding: held, class: Background}
	for i, n := range names {
		found[i].Name = n
		w.brief = append(w.brief, i)
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	in := make(chan heard, len(names)+1) // all that the peer may say
	if err := x.askRecordsOf(ctx, p, found, w, in); err != nil {
		return nil, err
	}
	close(in)
	entries := make([]*recordsEntry, len(names))
	for h := range in {
		if h.index >= 0 {
			entries[h.index] = h.entry
		}
	}
	return entries, nil
}

// tellees are the members that are to have the record of a file: home peers, and for
// a zip all that see to its copies.
func (r *repairer) tellees(around *ring, n verify.Name) []peer.ID {
	if n.Kind == verify.Zip {
		return r.keepers(around, n)
	}
	return r.x.homes(around, homeKey(n), n.Module.Path, r.x.cfg.Homes)
}
