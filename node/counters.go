package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// maxSources bounds the sources that are counted one by one; the members of a
// mesh and the upstreams of an office are far fewer.
const maxSources = 1000

// counters says what came from where since the start.
type counters struct {
	errors    atomic.Uint64 // answers that were none
	conflicts atomic.Uint64 // second contents refused
	forks     atomic.Uint64 // checksum databases caught with two histories
	rejected  atomic.Uint64 // answers for checksum databases that did not check

	unverified struct{ upstream, peer atomic.Uint64 } // not admitted, by where it came from

	mu       sync.RWMutex
	bySource map[string]*tally // guarded by mu; the tallies count by themselves
	received map[peer.ID]int64 // guarded by mu; bytes of zips by the member that sent them
}

type tally struct {
	answers atomic.Uint64
	bytes   atomic.Int64
}

func newCounters() *counters {
	return &counters{bySource: make(map[string]*tally), received: make(map[peer.ID]int64)}
}

// receive counts bytes of zips, whether a client waited for them or a copy was made.
func (c *counters) receive(from map[peer.ID]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, n := range from {
		if _, known := c.received[p]; known || len(c.received) < maxSources {
			c.received[p] += n
		}
	}
}

// unadmitted counts what was not admitted because it does not check, as opposed to
// nobody being there to ask.
func (c *counters) unadmitted(in *atomic.Uint64, err error) {
	if !errors.Is(err, verify.ErrUnavailable) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		in.Add(1)
	}
}

func (c *counters) receivedFrom(p peer.ID) int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.received[p]
}

// add counts one answer of so many bytes.
func (c *counters) add(source string, bytes int64) {
	t := c.tally(source)
	t.answers.Add(1)
	t.bytes.Add(bytes)
}

func (c *counters) tally(source string) *tally {
	c.mu.RLock()
	t := c.bySource[source]
	c.mu.RUnlock()
	if t != nil {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.bySource) >= maxSources {
		source = "others"
	}
	if c.bySource[source] == nil {
		c.bySource[source] = new(tally)
	}
	return c.bySource[source]
}

// served lists the counts by source.
func (c *counters) served() []Served {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]Served, 0, len(c.bySource))
	for source, t := range c.bySource {
		all = append(all, Served{Source: source, Answers: t.answers.Load(), Bytes: t.bytes.Load()})
	}
	slices.SortFunc(all, func(a, b Served) int { return cmp.Compare(a.Source, b.Source) })
	return all
}
