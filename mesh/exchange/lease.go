package exchange

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// Lease is the right to fetch something for the whole mesh. It must be ended by
// one of Done, Answer, Refuse and Fail, or by Close, which fails it if none of
// them was called. Until then heartbeats keep it; when the home peer dies it
// moves to the next one.
type Lease struct {
	x        *Exchange
	progress atomic.Uint64
	lost     chan struct{}

	mu    sync.Mutex // guards what follows
	turn  turn
	ended bool

	stop context.CancelFunc // ends keep
	kept chan struct{}      // closed when keep has ended
}

// turn is a lease at one desk.
type turn interface {
	// keep sends heartbeats until ctx ends or the turn is lost.
	keep(ctx context.Context, progress func() uint64) error
	// report ends the turn with a result.
	report(ctx context.Context, m *claimReport) error
	// close gives the turn up, if it was not reported.
	close(err error)
	claim() claimed
	home() peer.ID
}

// reportTimeout is how long a home peer may take to check and keep a record.
const reportTimeout = 10 * time.Second

var (
	errHomeGone = errors.New("home peer is gone")
	errSettled  = errors.New("settled by another fetcher")
)

// lease starts to keep a turn.
func (x *Exchange) lease(t turn) (*Claim, error) {
	ctx, stop := context.WithCancel(x.ctx)
	l := &Lease{x: x, turn: t, stop: stop, lost: make(chan struct{}), kept: make(chan struct{})}
	x.leases.add(t.claim().key, l)
	if !x.start(func() { l.keep(ctx) }) {
		x.leases.drop(t.claim().key, l)
		stop()
		t.close(ErrClosed)
		return nil, ErrClosed
	}
	return &Claim{Outcome: Fetch, Lease: l}, nil
}

// keep sends heartbeats, and finds another home peer when one is lost.
func (l *Lease) keep(ctx context.Context) {
	defer close(l.kept)
	for {
		l.mu.Lock()
		t := l.turn
		l.mu.Unlock()
		err := t.keep(ctx, l.progress.Load)
		if ctx.Err() != nil {
			return
		}
		t.close(err)
		var next turn
		if !errors.Is(err, errSettled) {
			l.x.log.Debug(lostLog, "key", t.claim().key, "err", err)
			next = l.x.resume(ctx, t.claim())
		}
		if ctx.Err() != nil && next == nil {
			return // it ends with a report, which finds the next home peer itself
		}
		if next == nil {
			close(l.lost)
			return
		}
		l.mu.Lock()
		l.turn = next
		l.mu.Unlock()
	}
}

// resume claims again for a fetch that is under way. It returns nil if there is
// no need to fetch any more.
func (x *Exchange) resume(ctx context.Context, c claimed) turn {
	req := c.request()
	req.Fetching, c.fetching = true, true
	search := x.homesFor(c)
	for {
		home, err := search.next(ctx)
		if err != nil {
			return nil
		}
		if home == x.self {
			who, _ := x.enter(x.self, c)
			if who == nil {
				return nil
			}
			return &localTurn{x: x, c: c, who: who}
		}
		sctx, cancel := context.WithCancel(x.ctx)
		t := &remoteTurn{x: x, c: c, at: home, cancel: cancel}
		r, err := t.open(sctx, req)
		if err == nil && r.State == claimFetch {
			if err = t.listen(sctx); err == nil {
				return t
			}
		}
		t.close(err)
		if err == nil && r.State != claimDeclined {
			return nil
		}
		search.failed(home)
	}
}

// Progress says that n more bytes, or other units, have come in. A fetcher whose
// counter stands still for long is replaced.
func (l *Lease) Progress(n int) { l.progress.Add(uint64(n)) }

// Lost is closed when there is no need to go on: the result is there already.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Done ends the lease of a file: this node has committed it, and all who wait
// are told to get it here. s goes to the home peer, which keeps it.
func (l *Lease) Done(ctx context.Context, s *verify.Signed) error {
	return l.end(ctx, &claimReport{State: claimHolders, Envelope: s.Envelope})
}

// Answer ends the lease of an answer: all who wait are given it, and the home
// peer keeps it.
func (l *Lease) Answer(ctx context.Context, value []byte, at time.Time) error {
	if len(value) > maxAnswer {
		return l.Fail(ctx, fmt.Sprintf("answer of %d bytes: at most %d can be handed on", len(value), maxAnswer))
	}
	return l.end(ctx, &claimReport{State: claimAnswer, Value: value, At: at.Unix()})
}

// Refuse ends the lease with upstream's word that there is none: all who wait
// are told the code (400 to 499) and the text.
func (l *Lease) Refuse(ctx context.Context, code int, text string) error {
	return l.end(ctx, &claimReport{State: claimRefused, Code: uint16(code), Text: text[:min(len(text), maxText)]})
}

// Fail ends the lease without a result: the next waiter is told to fetch, or,
// when several have failed, all are told the text.
func (l *Lease) Fail(ctx context.Context, text string) error {
	return l.end(ctx, &claimReport{State: claimFailed, Text: text[:min(len(text), maxText)]})
}

// Close ends a lease that was not ended yet, as one whose fetcher died: the next
// waiter is told to fetch.
func (l *Lease) Close() error { return l.end(context.Background(), nil) }

func (l *Lease) end(ctx context.Context, m *claimReport) error {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return nil
	}
	l.ended = true
	l.mu.Unlock()
	defer l.x.leases.drop(l.turn.claim().key, l)
	l.stop()
	<-l.kept // heartbeats have ended, so the turn is this goroutine's alone
	if m == nil || l.settled() {
		l.turn.close(nil)
		return nil
	}
	if err := l.report(ctx, m); err != nil {
		return fmt.Errorf("end the lease of %s: %w", l.turn.claim().key, err)
	}
	return nil
}

// report tells the home peer the result, or the next one if it is gone.
func (l *Lease) report(ctx context.Context, m *claimReport) error {
	var errs []error
	for range maxDeadHomes {
		err := l.turn.report(ctx, m)
		l.turn.close(err)
		if !errors.Is(err, errHomeGone) {
			return err
		}
		errs = append(errs, err)
		l.x.health.failed(l.turn.home())
		next := l.x.resume(ctx, l.turn.claim())
		if next == nil {
			return ctx.Err() // another fetcher was there first
		}
		l.turn = next
	}
	l.turn.close(errHomeGone)
	return errors.Join(errs...)
}

// settled reports whether others know the result already.
func (l *Lease) settled() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// localTurn is a lease at this node's own desk.
type localTurn struct {
	x   *Exchange
	c   claimed
	who *claimant
}

func (t *localTurn) claim() claimed { return t.c }
func (t *localTurn) home() peer.ID  { return t.x.self }

// keep watches that the fetch gets on, as a home peer does for a remote fetcher.
func (t *localTurn) keep(ctx context.Context, progress func() uint64) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	w := watch{moved: time.Now()}
	for {
		select {
		case <-beat.C:
			if w.stalled(progress(), time.Now(), t.x.cfg.Stall) {
				t.x.desk.replace(t.who)
			}
		case r := <-t.who.told:
			if r.State != claimFetch {
				return errSettled
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *localTurn) report(ctx context.Context, m *claimReport) error {
	result, err := t.x.settle(ctx, t.x.self, t.c, m)
	if err != nil {
		return err
	}
	t.x.desk.report(t.who, result)
	return nil
}

func (t *localTurn) close(error) { t.x.desk.leave(t.who) }

// remoteTurn is a lease, or a claim that waits for one, at another member.
type remoteTurn struct {
	x       *Exchange
	c       claimed
	at      peer.ID
	l       *link
	stop    func(error)
	cancel  context.CancelFunc // of the stream's context
	replies chan claimReply    // of a lease; closed when the stream has ended
}

func (t *remoteTurn) claim() claimed { return t.c }
func (t *remoteTurn) home() peer.ID  { return t.at }

// open sends the claim and returns the first reply.
func (t *remoteTurn) open(ctx context.Context, req *claimRequest) (r claimReply, err error) {
	t.l, t.stop, err = t.x.ask(ctx, t.at, ClaimID, Client)
	if err != nil {
		return r, err
	}
	t.l.idle = leaseTimeout
	start := time.Now()
	req.Trace = t.l.traceparent()
	if err := t.say(req); err != nil {
		return r, err
	}
	if err := t.l.recv(&r, maxClaim); err != nil {
		return r, err
	}
	t.x.health.answered(t.at, time.Since(start))
	return r, nil
}

// listen starts to read what the home peer says, until the stream ends; close
// ends it.
func (t *remoteTurn) listen(ctx context.Context) error {
	t.l.idle = reportTimeout // keep is stricter, report is not
	t.replies = make(chan claimReply)
	if !t.x.start(func() {
		defer close(t.replies)
		for {
			var r claimReply
			if t.l.recv(&r, maxClaim) != nil {
				return
			}
			select {
			case t.replies <- r:
			case <-ctx.Done():
				return
			}
		}
	}) {
		return ErrClosed
	}
	return nil
}

func (t *remoteTurn) keep(ctx context.Context, progress func() uint64) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	heard := time.Now()
	for {
		if err := t.say(&claimReport{State: claimAlive, Progress: progress()}); err != nil {
			return err
		}
		select {
		case now := <-beat.C:
			if now.Sub(heard) > leaseTimeout {
				t.x.health.failed(t.at)
				return errHomeGone
			}
		case r, ok := <-t.replies:
			if !ok {
				return errHomeGone
			}
			if r.State != claimWait && r.State != claimFetch {
				return errSettled
			}
			heard = time.Now()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *remoteTurn) say(m any) error {
	if err := t.l.send(m, maxClaim); err != nil {
		return err
	}
	return t.l.flush()
}

func (t *remoteTurn) report(ctx context.Context, m *claimReport) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { t.l.s.Reset() })()
	if err := t.say(m); err != nil {
		return errors.Join(errHomeGone, err)
	}
	for r := range t.replies {
		if r.State != claimWait && r.State != claimFetch {
			return nil
		}
	}
	return errors.Join(errHomeGone, ctx.Err())
}

func (t *remoteTurn) close(err error) {
	if t.stop != nil {
		t.stop(err)
	}
	t.cancel() // also ends listen
}
