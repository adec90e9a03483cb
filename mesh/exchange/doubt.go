package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// Who waits at a home peer does not take its word for it that somebody fetches: it
// asks the fetcher that the home peer names.
const (
	firstDoubt  = leaseTimeout    // how long the home peer is believed at first
	doubtEvery  = 5 * time.Second // how often the fetcher is asked while it says that it fetches,
	denialEvery = heartbeat       // and while it does not
	maxDenied   = 3 * time.Second // after so long, and minDenials, without a fetcher the claim moves on
	minDenials  = 3
	// A home peer that says that it fetches itself may say so for maxSelf times
	// Config.Stall: nobody else can tell.
	maxSelf = 4
)

var errNoFetcher = errors.New("home peer says to wait, and nobody fetches")

// doubt watches one home peer's word that a claim has to wait.
type doubt struct {
	x       *Exchange
	c       claimed
	home    peer.ID
	began   time.Time
	next    time.Time         // when to ask again
	asked   chan testimony    // nil while nobody is asked; capacity 1
	denied  int               // answers in a row that did not say that somebody fetches
	since   time.Time         // of the first of them
	fetcher peer.ID           // who was asked last
	watch   map[peer.ID]watch // of the progress that fetchers tell
}

// testimony is what a fetcher said.
type testimony struct {
	reply claimReply
	err   error
}

func (x *Exchange) doubt(home peer.ID, c claimed) *doubt {
	now := time.Now()
	return &doubt{x: x, c: c, home: home, began: now, next: now.Add(firstDoubt), watch: map[peer.ID]watch{}}
}

// waits is told of each reply of the home peer that says to wait. It never blocks.
// It returns the claim's outcome if the fetcher knows it already, or an error if it
// is no use to wait any longer.
func (d *doubt) waits(ctx context.Context, r claimReply) (*Claim, error) {
	now := time.Now()
	if d.asked != nil {
		select {
		case t := <-d.asked:
			d.asked = nil
			return d.weigh(t, now)
		default:
		}
	}
	if d.asked != nil || now.Before(d.next) {
		return nil, nil
	}
	fetcher, ok := peerOf(r.Fetcher)
	if !ok {
		return nil, d.deny(now)
	}
	if d.fetcher = fetcher; fetcher == d.x.self { // for somebody else who waits here, or not at all
		return d.weigh(testimony{reply: d.x.answerProbe(d.c)}, now)
	}
	asked := make(chan testimony, 1)
	if !d.x.start(func() {
		reply, err := d.x.probe(ctx, fetcher, d.c)
		asked <- testimony{reply, err}
	}) {
		return nil, ErrClosed
	}
	d.asked = asked
	return nil, nil
}

// weigh takes what the fetcher said.
func (d *doubt) weigh(t testimony, now time.Time) (*Claim, error) {
	switch {
	case t.err != nil:
	case t.reply.State == claimAlive:
		d.denied, d.next = 0, now.Add(doubtEvery)
		return nil, d.progress(t.reply.Progress, now)
	case (t.reply.State == claimHolders || t.reply.State == claimAnswer) && d.c.willDo(t.reply):
		out, err := t.reply.claim(d.c)
		if err == nil {
			out.Home = d.fetcher // it says so, not the home peer
			return out, nil
		}
		if errors.Is(err, verify.ErrRecord) {
			d.x.liar(d.fetcher, err)
		}
	}
	return nil, d.deny(now)
}

// progress reports a fetcher that lives and does not get on, and a home peer that
// has fetched for longer than it can be believed.
func (d *doubt) progress(count uint64, now time.Time) error {
	w, known := d.watch[d.fetcher]
	if !known {
		w = watch{count: count, moved: now}
	}
	// The home peer replaces who stalls; it gets as long again to do so.
	stalled := w.stalled(count, now, 2*d.x.cfg.Stall)
	d.watch[d.fetcher] = w
	if stalled || d.fetcher == d.home && now.Sub(d.began) > maxSelf*d.x.cfg.Stall {
		return fmt.Errorf("%w: %v has made no progress for too long", errNoFetcher, d.fetcher)
	}
	return nil
}

// deny notes that no fetcher was found.
func (d *doubt) deny(now time.Time) error {
	if d.denied++; d.denied == 1 {
		d.since = now
	}
	d.next = now.Add(denialEvery)
	if d.denied >= minDenials && now.Sub(d.since) >= maxDenied {
		return errNoFetcher
	}
	return nil
}

// probe asks p whether it fetches.
func (x *Exchange) probe(ctx context.Context, p peer.ID, c claimed) (r claimReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	// Many may ask at once, and come late on a busy machine: that is no failure of p's
	// that should send other claims past it.
	l, stop, err := x.open(ctx, p, ClaimID, Client)
	if err != nil {
		return r, err
	}
	defer func() { stop(err) }()
	req := c.request()
	req.Probe = true
	if err := l.send(req, maxRequest); err != nil {
		return r, err
	}
	if err := l.flush(); err != nil {
		return r, err
	}
	return r, l.recv(&r, maxClaim)
}

// answerProbe says whether this node fetches what c is about, or has it.
func (x *Exchange) answerProbe(c claimed) claimReply {
	if progress, ok := x.leases.progress(c.key); ok {
		return claimReply{State: claimAlive, Progress: progress}
	}
	if r, ok := x.known(c); ok {
		return r
	}
	return claimReply{State: claimEnded}
}

// wait is the reply to those who wait for c: who is fetching.
func (x *Exchange) wait(c claimed) claimReply {
	return claimReply{State: claimWait, Fetcher: []byte(x.desk.fetcher(c.key))}
}

// leaseTable is the leases that this node holds, by key.
type leaseTable struct {
	mu   sync.Mutex // guards held
	held map[string][]*Lease
}

func newLeaseTable() *leaseTable { return &leaseTable{held: map[string][]*Lease{}} }

func (t *leaseTable) add(key string, l *Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[key] = append(t.held[key], l)
}

func (t *leaseTable) drop(key string, l *Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := slices.DeleteFunc(t.held[key], func(other *Lease) bool { return other == l })
	if len(left) == 0 {
		delete(t.held, key)
	} else {
		t.held[key] = left
	}
}

// progress returns how far the fetch of key is that this node has a lease for.
func (t *leaseTable) progress(key string) (most uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.held[key] {
		most = max(most, l.progress.Load())
	}
	return most, len(t.held[key]) > 0
}
