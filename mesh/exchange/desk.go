package exchange

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// How long a desk remembers how a claim ended, so that those who ask a moment
// later do not fetch again, and how much it remembers. A release that was
// fetched is found in the store besides.
const (
	recallDone    = time.Minute
	recallRefused = 5 * time.Second
	recallFailed  = time.Second
	maxRecalled   = 4096
	maxRecalledB  = 64 << 20 // bytes of envelopes and answers
	maxTries      = 2        // fetchers that may say they failed before all who wait are told so
)

// desk is a home peer's table of claims: for each key who is fetching it and who
// waits, in order. It is a state machine under one lock, without goroutines:
// claimants are told through their channels.
type desk struct {
	now func() time.Time

	mu       sync.Mutex // guards what follows, and all that it points to
	claims   map[string]*claims
	recalled map[string]recollection
	bytes    int  // of recalled
	closed   bool // this node goes down: it hands nothing out any more
}

// claims is what goes on for one key. There is at least one fetcher, or it is
// over.
type claims struct {
	fetchers []*claimant // more than one only when a home peer died
	waiters  []*claimant // first come first
	tries    int         // fetchers that said they failed
}

type recollection struct {
	result claimReply
	until  time.Time
}

// claimant is one open claim. It is told at most twice: to fetch, and how it
// ended.
type claimant struct {
	peer peer.ID
	key  string
	told chan claimReply
}

func newClaimant(p peer.ID, key string) *claimant {
	return &claimant{peer: p, key: key, told: make(chan claimReply, 2)}
}

func newDesk(now func() time.Time) *desk {
	return &desk{now: now, claims: map[string]*claims{}, recalled: map[string]recollection{}}
}

// claim enters c and returns what it is told first: fetch, wait, or how the
// claim ended a moment ago, if that will do for c. fetching says that c fetches
// already, as its former home peer told it to.
func (d *desk) claim(c *claimant, fetching bool, willDo func(claimReply) bool) claimReply {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if r, ok := d.recalled[c.key]; ok && now.Before(r.until) && willDo(r.result) {
		return r.result
	}
	all := d.claims[c.key]
	if all == nil {
		all = &claims{}
		d.claims[c.key] = all
	}
	if len(all.fetchers) == 0 || fetching {
		all.fetchers = append(all.fetchers, c)
		return claimReply{State: claimFetch}
	}
	all.waiters = append(all.waiters, c)
	return claimReply{State: claimWait}
}

// leave takes c out without a result: its stream ended, or it stalled. If nobody
// fetches then, the next waiter is told to.
func (d *desk) leave(c *claimant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if all := d.claims[c.key]; all != nil {
		d.remove(all, c)
	}
}

// close stops handing out leases: those who wait will find another home peer,
// and one told to fetch by a node that is gone would fetch beside whoever that
// one tells.
func (d *desk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

// replace takes away c's right to fetch alone: the next waiter is told to fetch,
// or whoever claims next is. c may still report.
func (d *desk) replace(c *claimant) { d.leave(c) }

// remove takes c out of all and passes the claim on; the caller holds mu.
func (d *desk) remove(all *claims, c *claimant) {
	all.fetchers = without(all.fetchers, c)
	all.waiters = without(all.waiters, c)
	if len(all.fetchers) > 0 || d.closed {
		return
	}
	if len(all.waiters) == 0 {
		delete(d.claims, c.key)
		return
	}
	next := all.waiters[0]
	all.waiters = all.waiters[1:]
	all.fetchers = append(all.fetchers, next)
	next.told <- claimReply{State: claimFetch}
}

func without(list []*claimant, c *claimant) []*claimant {
	for i, other := range list {
		if other == c {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// report takes the result of a fetcher. Done, answer and refused end the claim
// for all who wait; failed passes it to the next waiter, until maxTries fetchers
// have failed. A claimant that is no longer a fetcher may report all the same:
// what it brings is as good.
func (d *desk) report(c *claimant, result claimReply) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.claims[c.key]
	if result.State == claimFailed {
		if all == nil {
			return
		}
		all.tries++
		if all.tries < maxTries {
			d.remove(all, c)
			return
		}
	}
	d.recall(c.key, result)
	if all == nil {
		return
	}
	delete(d.claims, c.key)
	for _, other := range append(all.waiters, all.fetchers...) {
		if other != c {
			other.told <- result
		}
	}
}

// recall keeps a result for those who ask a moment later; the caller holds mu.
func (d *desk) recall(key string, r claimReply) {
	now := d.now()
	keep := recallDone
	switch r.State {
	case claimRefused:
		keep = recallRefused
	case claimFailed:
		keep = recallFailed
	}
	if old, ok := d.recalled[key]; ok {
		d.bytes -= old.result.size()
	}
	d.recalled[key] = recollection{r, now.Add(keep)}
	d.bytes += r.size()
	if len(d.recalled) <= maxRecalled && d.bytes <= maxRecalledB {
		return
	}
	for k, old := range d.recalled {
		if !now.Before(old.until) {
			d.forget(k)
		}
	}
	// Still too much: any but the newest goes, and some more, so that not every
	// result comes here.
	for k := range d.recalled {
		if len(d.recalled) <= maxRecalled*3/4 && d.bytes <= maxRecalledB*3/4 {
			return
		}
		if k != key {
			d.forget(k)
		}
	}
}

func (d *desk) forget(key string) {
	d.bytes -= d.recalled[key].result.size()
	delete(d.recalled, key)
}

func (r claimReply) size() int { return len(r.Envelope) + len(r.Value) + len(r.Text) + 64 }

// fetcher returns who fetches key now; "" is nobody.
func (d *desk) fetcher(key string) peer.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if all := d.claims[key]; all != nil && len(all.fetchers) > 0 {
		return all.fetchers[0].peer
	}
	return ""
}
