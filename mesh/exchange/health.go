package exchange

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// What a peer's failures cost it.
const (
	firstBackoff = 2 * time.Second  // after one failure; doubles with each one more
	maxBackoff   = time.Minute      //
	liePenalty   = 10 * time.Minute // how long a liar is asked last
	lieMemory    = 24 * time.Hour   // how long a lie counts
	maxLies      = 3                // lies within lieMemory after which a peer is cut off,
	cutOffTime   = time.Hour        // and asked nothing for so long
)

// health remembers how peers behaved: how fast they answered, how fast they
// delivered, when they failed, and how often they sent bytes that do not hash.
// It has no goroutines and asks nobody.
type health struct {
	now      func() time.Time
	failures atomic.Uint64 // of all peers together, since the start
	nearRTT  time.Duration // nearRTT, but for tests

	mu    sync.Mutex // guards peers and what they point to
	peers map[peer.ID]*conduct
}

type conduct struct {
	rtt      time.Duration // moving average of request to first byte; 0 is unknown
	least    time.Duration // the least that it ever was; 0 is unknown
	speed    float64       // moving average of bytes a second; 0 is unknown
	failures int           // since the last answer
	tardy    int           // answers that came too late since the last one in time
	retryAt  time.Time
	lies     []time.Time
}

func newHealth(now func() time.Time) *health {
	return &health{now: now, nearRTT: nearRTT, peers: map[peer.ID]*conduct{}}
}

// of returns the entry for p; the caller holds mu.
func (h *health) of(p peer.ID) *conduct {
	c := h.peers[p]
	if c == nil {
		c = &conduct{}
		h.peers[p] = c
	}
	return c
}

// forget drops what is known of p's failures, for example because it connected
// again. Lies are remembered.
func (h *health) forget(p peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.peers[p]; c != nil {
		c.failures, c.tardy, c.retryAt = 0, 0, time.Time{}
	}
}

// answered notes that p answered, and after how long.
func (h *health) answered(p peer.ID, after time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.of(p)
	c.failures, c.tardy, c.retryAt = 0, 0, time.Time{}
	if c.rtt == 0 {
		c.rtt = after
	} else {
		c.rtt += (after - c.rtt) / 4
	}
	if c.least == 0 || after < c.least {
		c.least = after
	}
}

// delivered notes that p sent n bytes in the time given.
func (h *health) delivered(p peer.ID, n int64, took time.Duration) {
	if n < 4<<10 || took <= 0 {
		return // too little to measure a speed by
	}
	speed := float64(n) / took.Seconds()
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.of(p)
	if c.speed == 0 {
		c.speed = speed
	} else {
		c.speed += (speed - c.speed) / 4
	}
}

// late notes that p did not answer within the budget. Once is the fate of any
// busy node, and means nothing; twice in a row counts as a failure.
func (h *health) late(p peer.ID) {
	h.mu.Lock()
	c := h.of(p)
	c.tardy++
	again := c.tardy > 1
	h.mu.Unlock()
	if again {
		h.failed(p)
	}
}

// failed notes that p could not be reached or broke off. Until the backoff is
// over it is passed over where there is a choice.
func (h *health) failed(p peer.ID) {
	h.failures.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.of(p)
	wait := maxBackoff
	if c.failures < 5 {
		wait = min(maxBackoff, firstBackoff<<c.failures)
	}
	c.failures++
	c.retryAt = h.now().Add(wait)
}

// lied notes that p sent bytes that are not what they were said to be, and
// reports how often it did so lately.
func (h *health) lied(p peer.ID) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.of(p)
	now := h.now()
	c.lies = slices.DeleteFunc(c.lies, func(t time.Time) bool { return now.Sub(t) > lieMemory })
	if len(c.lies) < 2*maxLies { // more than enough to judge by
		c.lies = append(c.lies, now)
	}
	return len(c.lies)
}

// usable reports whether p is worth a try now: it is in no backoff and was not
// cut off.
func (h *health) usable(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, now := h.peers[p], h.now()
	return c == nil || (!now.Before(c.retryAt) && !c.cutOff(now))
}

// hopeful is usable for a peer that has failed no more than once.
func (h *health) hopeful(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, now := h.peers[p], h.now()
	return c == nil || ((c.failures < 2 || !now.Before(c.retryAt)) && !c.cutOff(now))
}

func (c *conduct) cutOff(now time.Time) bool {
	n := len(c.lies)
	return n >= maxLies && now.Sub(c.lies[n-1]) < cutOffTime
}

// banned reports whether p was cut off lately.
func (h *health) banned(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.peers[p]
	return c != nil && c.cutOff(h.now())
}

// rtt is the time from request to answer that p showed so far; 0 is unknown.
func (h *health) rtt(p peer.ID) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.peers[p]; c != nil {
		return c.rtt
	}
	return 0
}

// nearRTT is below the least round trip of a peer that is near: across a LAN, not a
// WAN.
const nearRTT = 10 * time.Millisecond

// near reports whether p is known to be near.
func (h *health) near(p peer.ID) bool {
	least := h.distance(p)
	return least > 0 && least < h.nearRTT
}

// distance is the least round trip to p so far, without what load adds to it; 0 is
// unknown.
func (h *health) distance(p peer.ID) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.peers[p]; c != nil {
		return c.least
	}
	return 0
}

// speed is how many bytes a second p delivered so far; 0 is unknown.
func (h *health) speed(p peer.ID) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.peers[p]; c != nil {
		return c.speed
	}
	return 0
}

// rank sorts peers, best first: those in good standing before those in backoff
// before recent liars; among equals by round trips in steps of a factor of four,
// so that a LAN goes before a WAN, but a little distance does not starve anybody
// of questions; then as they came.
func (h *health) rank(ids []peer.ID) []peer.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	grade := func(p peer.ID) int {
		c := h.peers[p]
		if c == nil {
			return 3 // unknown: like a WAN peer
		}
		g := 3
		if c.rtt > 0 {
			g = 0
			for d := time.Millisecond; d < c.rtt && g < 8; d *= 4 {
				g++
			}
		}
		if now.Before(c.retryAt) {
			g += 100
		}
		if n := len(c.lies); n > 0 && now.Sub(c.lies[n-1]) < liePenalty {
			g += 1000
		}
		return g
	}
	ranked := slices.Clone(ids)
	slices.SortStableFunc(ranked, func(a, b peer.ID) int { return grade(a) - grade(b) })
	return ranked
}
