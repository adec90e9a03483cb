package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"
	"golang.org/x/sync/semaphore"

	"github.com/meshproxy/meshproxy/verify"
)

// Limits of one transfer.
const (
	maxActive   = 4        // peers that send at once
	maxBuffered = 16 << 20 // bytes of small files on their way into the store
	// maxBufferedAhead is that of all transfers together for which no client waits.
	maxBufferedAhead = 2 * maxBuffered
	// checksPerCore is how many files are verified and kept at a time, for each core: a
	// few, because they also wait for the store, which writes what comes at the same time
	// together. With hundreds, whoever answers clients would get a turn too seldom.
	checksPerCore  = 4
	providerBudget = 500 * time.Millisecond // to find holders in the DHT
	maxProviders   = 8
	minShared      = 8 << 20                // bytes of a release for which more holders are looked for in the DHT while one sends: less has come before
	maxTried       = 8                      // holders asked for a listing
	maxRestarts    = 3                      // streams opened anew to one peer for no fault of its own
	lookAgain      = 100 * time.Millisecond // how often a worker with nothing to do looks for work to take over
)

// PullRequest says what to fetch and how.
type PullRequest struct {
	Module  module.Version
	Root    verify.Digest
	Holders []peer.ID // from records or a claim; the DHT is asked if there are none, or they fail
	Size    int64     // sum of file sizes that the record says, on one member's word; 0 is unknown
	Class   Class
	Bases   []verify.Digest // roots of other versions whose listings are here, nearest first

	// Stage is called once with the listing, which hashes to Root. It says which
	// files are missing here. An error ends the transfer: the listing is not one
	// that this node would keep.
	Stage func(ctx context.Context, listing []byte) (missing []verify.File, err error)
}

// PullStats says what a transfer did.
type PullStats struct {
	Files        int               // distinct files that were missing
	Bytes        int64             // of raw streams of these
	Wasted       int64             // bytes of raw streams that were not needed or no good
	ListingBytes int64             // of the compressed listing; 0 if it was not asked for
	From         map[peer.ID]int64 // useful bytes by peer
	Resumed      int               // large files taken up in the middle
	Took         time.Duration
}

// Transfer is a release on its way here. Each file is verified and kept as it
// arrives, also if the rest fails.
type Transfer struct {
	x       *Exchange
	req     PullRequest
	listing verify.Listing
	text    []byte
	sums    map[verify.Digest]int // positions in sched, read only
	buffers *semaphore.Weighted
	start   time.Time
	cancel  context.CancelCauseFunc
	workers sync.WaitGroup // and puts of theirs
	stuck   chan struct{}  // capacity 1; tells run that nobody who is asked has what is left
	ended   chan struct{}

	mu       sync.Mutex // guards what follows
	sched    *sched
	done     map[int]chan struct{} // closed when the file is here, for those waited for
	changed  chan struct{}         // closed, and made anew, when there may be something to do
	holders  []peer.ID             // not tried yet
	tried    map[peer.ID]bool
	restarts map[peer.ID]int
	askedDHT bool
	active   int
	sources  map[peer.ID]*source // those active
	partial  map[peer.ID]bool    // holders that are fetching, too
	news     time.Time           // when one of these last had more than before
	stats    PullStats
	peerErr  error // of all peers that failed
	failed   error // of this node
	err      error // set before ended is closed
}

// Pull fetches the missing files of a release and waits for all of them.
func (x *Exchange) Pull(ctx context.Context, req PullRequest) (PullStats, error) {
	t, err := x.Begin(ctx, req)
	if err != nil {
		return PullStats{}, err
	}
	return t.Done(ctx)
}

// Begin obtains the listing, stages it, and returns while files arrive. The
// transfer ends with ctx. The error is ErrUnknown if every holder that was
// reached has nothing of it, ErrUnreached if none was.
func (x *Exchange) Begin(ctx context.Context, req PullRequest) (*Transfer, error) {
	if req.Stage == nil || module.Check(req.Module.Path, req.Module.Version) != nil {
		return nil, fmt.Errorf("pull %v: want a valid module version and a Stage function", req.Module)
	}
	tctx, undo := x.within(ctx)
	tctx, cancel := context.WithCancelCause(tctx)
	t := &Transfer{
		x: x, req: req, start: time.Now(), ended: make(chan struct{}), stuck: make(chan struct{}, 1),
		cancel:  func(err error) { cancel(err); undo() },
		buffers: x.buffers,
		done:    map[int]chan struct{}{}, changed: make(chan struct{}), tried: map[peer.ID]bool{}, restarts: map[peer.ID]int{}, sources: map[peer.ID]*source{}, partial: map[peer.ID]bool{},
		stats: PullStats{From: map[peer.ID]int64{}},
	}
	over := func() {}
	if req.Class == Client { // from now on: the listing is waited for, too
		over = x.limits.client()
		t.buffers = semaphore.NewWeighted(maxBuffered)
	}
	first, err := t.begin(tctx)
	if err != nil {
		over()
		t.cancel(err)
		return nil, fmt.Errorf("pull %v: %w", req.Module, err)
	}
	done := x.crowd.fetching(t)
	if !x.start(func() { defer over(); defer done(); t.run(tctx, first) }) {
		over()
		done()
		first.end(ErrClosed)
		t.cancel(ErrClosed)
		return nil, ErrClosed
	}
	return t, nil
}

// begin gets the listing from the first holder that sends it, and plans.
func (t *Transfer) begin(ctx context.Context) (*source, error) {
	t.addHolders(t.req.Holders)
	t.addHolders(t.x.liveHolders(t.req.Root))
	first, err := t.firstSource(ctx)
	if err != nil {
		return nil, err
	}
	missing, err := t.req.Stage(ctx, t.text)
	if err != nil {
		first.end(err)
		return nil, err
	}
	t.sched = newSched(t.listing, missing)
	t.sums = make(map[verify.Digest]int, len(t.sched.items))
	for i := range t.sched.items {
		t.sums[t.sched.items[i].file.Sum] = i
	}
	t.stats.Files = len(t.sched.items)
	return first, nil
}

// addHolders queues peers to get files from, best first; the caller holds mu, or
// is alone.
func (t *Transfer) addHolders(ids []peer.ID) {
	for _, p := range ids {
		if p != t.x.self && !t.tried[p] && !slices.Contains(t.holders, p) &&
			t.x.cfg.Members.IsMember(p) && !t.x.health.banned(p) && t.x.shares(p, t.req.Module.Path) {
			t.holders = append(t.holders, p)
		}
	}
	t.holders = t.x.health.rank(t.holders)
}

// nextHolder returns a peer that was not tried yet; the caller holds mu, or is
// alone.
func (t *Transfer) nextHolder() (peer.ID, bool) {
	if len(t.holders) == 0 {
		return "", false
	}
	p := t.holders[0]
	t.holders = t.holders[1:]
	t.tried[p] = true
	return p, true
}

// providers asks the DHT for holders and returns when the first answered, or
// after providerBudget; those that come later are not waited for.
func (t *Transfer) providers(ctx context.Context) []peer.ID {
	if t.x.cfg.Routing == nil || !t.x.Public(t.req.Module.Path) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, providerBudget)
	defer cancel()
	infos := t.x.cfg.Routing.FindProvidersAsync(ctx, t.req.Root.CID(), maxProviders)
	var found []peer.ID
	for {
		select {
		case info, ok := <-infos:
			if !ok {
				return found
			}
			found = append(found, info.ID)
			if info.ID != t.x.self && t.x.health.usable(info.ID) && !t.wasTried(info.ID) {
				return found
			}
		case <-ctx.Done(): // the channel may close much later
			return found
		}
	}
}

func (t *Transfer) wasTried(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tried[p]
}

// firstSource obtains the listing. Holders are asked one after the other, each
// with a head start over the next, and the first good listing wins.
func (t *Transfer) firstSource(ctx context.Context) (*source, error) {
	type result struct {
		s   *source
		err error
	}
	results := make(chan result, maxTried)
	var open []*source
	wait := time.NewTimer(0)
	defer wait.Stop()
	err := error(nil)
	for tried := 0; ; {
		select {
		case <-wait.C:
			p, ok := t.moreHolders(ctx, true)
			if !ok || tried == maxTried {
				if len(open) == 0 {
					return nil, t.noSource(err)
				}
				continue // those under way are the last
			}
			tried++
			s := t.newSource(ctx, p)
			if !t.x.start(func() { results <- result{s, s.open(true)} }) {
				s.end(ErrClosed)
				return nil, ErrClosed
			}
			open = append(open, s)
			wait.Reset(t.x.headStart(p))
		case r := <-results:
			open = slices.DeleteFunc(open, func(s *source) bool { return s == r.s })
			if r.err == nil {
				for _, s := range open { // they were slower, and hold files all the same
					s.cancel(errNotNeeded)
					t.tried[s.peer] = false
					t.addHolders([]peer.ID{s.peer})
				}
				t.text, t.listing = r.s.text, r.s.listing
				t.stats.ListingBytes = r.s.listingBytes
				return r.s, nil
			}
			err = errors.Join(err, r.err)
			wait.Reset(0)
		}
	}
}

var errNotNeeded = errors.New("another peer was faster")

// headStart is how long a peer is waited for before another is asked as well.
func (x *Exchange) headStart(p peer.ID) time.Duration {
	if rtt := x.health.rtt(p); rtt > 0 {
		return 2*rtt + x.cfg.Budget
	}
	return x.cfg.Budget + dialTimeout/2
}

// moreHolders returns a peer to ask, with dht if need be one that the DHT names; the
// caller holds no lock, and is alone or the supervisor.
func (t *Transfer) moreHolders(ctx context.Context, dht bool) (peer.ID, bool) {
	t.mu.Lock()
	p, ok := t.nextHolder()
	ask := dht && !ok && !t.askedDHT
	t.askedDHT = t.askedDHT || ask
	t.mu.Unlock()
	if !ask {
		return p, ok
	}
	found := t.providers(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addHolders(found)
	return t.nextHolder()
}

// noSource is the error when no holder sent the listing.
func (t *Transfer) noSource(err error) error {
	kind := ErrUnreached
	if errors.Is(err, errAbsent) {
		kind = ErrUnknown
	}
	return fmt.Errorf("%d holders asked for the listing of %v: %w", len(t.tried), t.req.Root.H1(), errors.Join(kind, err))
}

// run starts workers, one for each holder, until every file is here or nobody
// can send what is left.
func (t *Transfer) run(ctx context.Context, first *source) {
	t.spawn(first)
	err := t.supervise(ctx)
	t.cancel(errNotNeeded) // the workers' streams
	t.workers.Wait()
	t.mu.Lock()
	for i := range t.sched.items {
		if part := t.sched.items[i].part; part != nil {
			part.abandon()
		}
	}
	t.err = err
	t.stats.Took = time.Since(t.start)
	t.mu.Unlock()
	close(t.ended)
}

func (t *Transfer) supervise(ctx context.Context) error {
	for {
		t.mu.Lock()
		left, failed, changed := t.sched.left, t.failed, t.changed
		more := t.active < maxActive && t.sched.waiting()
		idle := (t.active == 0 && !t.sched.verifying()) || (t.sched.stuck() && t.sched.idle() && !t.crowded())
		t.mu.Unlock()
		switch {
		case left == 0:
			return nil
		case failed != nil:
			return failed
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if more || idle {
			if p, ok := t.moreHolders(ctx, idle || t.req.Size == 0 || t.req.Size >= minShared); ok {
				t.spawn(t.newSource(ctx, p))
				continue
			}
			if idle {
				t.mu.Lock()
				defer t.mu.Unlock()
				return fmt.Errorf("pull %v: %d of %d files are with no holder that can be reached: %w",
					t.req.Module, t.sched.left, len(t.sched.items), errors.Join(ErrUnknown, t.peerErr))
			}
		}
		select {
		case <-changed:
		case <-t.stuck:
		case <-ctx.Done():
		}
	}
}

// spawn lets s work until there is nothing left to do or it fails.
func (t *Transfer) spawn(s *source) {
	t.mu.Lock()
	t.active++
	t.sources[s.peer] = s
	t.news = time.Now()
	t.sched.join(s.peer, t.x.health.speed(s.peer), t.x.health.distance(s.peer))
	t.sched.promised(s.peer, s.lead, time.Now())
	t.mu.Unlock()
	t.workers.Add(1)
	work := func() {
		defer t.workers.Done()
		err := s.work()
		s.end(err)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.active--
		delete(t.sources, s.peer)
		t.sched.lost(s.peer)
		switch {
		case errors.Is(err, errDry):
			t.tried[s.peer] = false // until it is named again
		case (errors.Is(err, errRestart) || s.brokeOff(err)) && s.restarts < maxRestarts:
			t.restarts[s.peer] = s.restarts + 1
			t.tried[s.peer] = false
			t.addHolders([]peer.ID{s.peer})
		case err != nil:
			t.peerErr = errors.Join(t.peerErr, fmt.Errorf("%v: %w", s.peer, err))
		}
		t.wake()
	}
	if !t.x.start(work) {
		t.fail(ErrClosed)
		s.cancel(ErrClosed)
		work()
	}
}

// wake tells workers and supervisor that something changed; the caller holds mu.
func (t *Transfer) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// fail ends the transfer: this node cannot go on, whoever sends.
func (t *Transfer) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = err
		t.wake()
	}
}

// finish notes that file i is verified and kept, from p.
func (t *Transfer) finish(p peer.ID, i int, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.sched.finish(i) {
		t.stats.Wasted += n
		return
	}
	t.stats.Bytes += n
	t.stats.From[p] += n
	t.x.metrics.pulled.WithLabelValues("kept").Inc()
	if ch := t.done[i]; ch != nil {
		close(ch)
		delete(t.done, i)
	}
	if t.sched.left == 0 || t.active == 0 {
		t.wake() // the supervisor may wait for just this one
	}
}

// Listing is the release's listing, which hashes to the root asked for.
func (t *Transfer) Listing() verify.Listing { return t.listing }

// Wait returns when a file of the listing is here, verified. Files that are
// waited for are fetched before others. It fails when ctx or the transfer ends.
func (t *Transfer) Wait(ctx context.Context, f verify.File) error {
	i, ok := t.sums[f.Sum]
	if !ok {
		return nil // it was here before
	}
	t.mu.Lock()
	if t.sched.items[i].done {
		t.mu.Unlock()
		return nil
	}
	ch := t.done[i]
	if ch == nil {
		ch = make(chan struct{})
		t.done[i] = ch
		t.sched.urgent(i)
	}
	t.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.ended:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sched.items[i].done {
		return nil
	}
	return fmt.Errorf("wait for %s: %w", f.Name, t.err)
}

// Done waits for the end of the transfer. When ctx ends first, the transfer goes
// on.
func (t *Transfer) Done(ctx context.Context) (PullStats, error) {
	select {
	case <-t.ended:
	case <-ctx.Done():
		return PullStats{}, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats, t.err
}
