package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

// Cost is what one operation took, over a number of them.
type Cost struct {
	Count    int
	Streams  float64 // opened, on average
	Messages float64 // sent by all who took part, on average
	Bytes    float64 // in them, on average
	P50, P99 float64 // time, in milliseconds
	CPU      float64 // processor time of all who took part, in milliseconds, on average
}

// each runs an operation a number of times, one after the other, and counts what
// the protocols named sent meanwhile.
func (w *World) each(count int, op func(i int) error, of ...protocol.ID) (c Cost, err error) {
	before, cpu := w.net.Counts(), processorTime()
	var took []time.Duration
	for i := range count {
		start := time.Now()
		if err := op(i); err != nil {
			return c, err
		}
		took = append(took, time.Since(start))
		time.Sleep(w.cfg.Links.Across * 2) // what is left of it ends
	}
	time.Sleep(time.Second)
	sent, n := w.net.Counts().Since(before).Total(of...), float64(count)
	c = Cost{
		Count: count, Streams: float64(sent.Streams) / n, Messages: float64(sent.Messages) / n, Bytes: float64(sent.Bytes) / n,
		CPU: millis(processorTime()-cpu) / n,
	}
	c.P50, c.P99 = quantile(took, 0.5), quantile(took, 0.99)
	return c, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func quantile(took []time.Duration, q float64) float64 {
	if len(took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return millis(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

func (w *World) any() *Member {
	up := w.Up()
	return up[w.rng.IntN(len(up))]
}

// anyBut returns a member that runs and does not hold a file.
func (w *World) anyBut(n verify.Name) (*Member, error) {
	for range 100 {
		if m := w.any(); !m.backend.holds(n) {
			return m, nil
		}
	}
	return nil, fmt.Errorf("every member holds %v", n)
}

// Fill has each release fetched by some member, a number of them at a time, and
// waits until home peers know.
func (w *World) Fill(ctx context.Context, releases []*Release, kinds ...verify.Kind) error {
	for batch := range slices.Chunk(releases, 64) {
		var wg sync.WaitGroup
		errs := make([]error, len(batch))
		for i, r := range batch {
			m := w.any()
			wg.Go(func() {
				for _, k := range kinds {
					_, err := m.Get(ctx, r, k)
					errs[i] = errors.Join(errs[i], err)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	time.Sleep(newsDelay + 2*time.Second)
	return nil
}

// Questions is what questions and claims cost in a mesh of some size.
type Questions struct {
	Members int
	Hit     Cost // a question for one go.mod that is in the mesh
	Miss    Cost // for one that is not
	Batch   Cost // for BatchOf that are
	BatchOf int
	Claim   Cost // a claim that is told to fetch, and its report; the time is without the fetch
	Claimed int  // names claimed
	Fetched int  // fetches from the world outside for them
}

// batchOf is how many names a cold build asks for at once.
const batchOf = 100

// MeasureQuestions measures questions and claims, with go.mod files.
func (w *World) MeasureQuestions(ctx context.Context, releases []*Release, count int) (q Questions, err error) {
	q.Members = len(w.members)
	known, unknown := releases[:len(releases)/2], releases[len(releases)/2:]
	if err := w.Fill(ctx, known, verify.Mod); err != nil {
		return q, err
	}
	ask := func(m *Member, hit bool, of ...*Release) error {
		var names []verify.Name
		for _, r := range of {
			names = append(names, r.Name(verify.Mod))
		}
		reply, err := m.x.Records(ctx, names, exchange.RecordsOptions{})
		if err != nil {
			return err
		}
		for _, f := range reply.Found {
			if hit != (len(f.Records) > 0) {
				return fmt.Errorf("%v: %d records, want some: %v", f.Name, len(f.Records), hit)
			}
		}
		return nil
	}
	one := func(from []*Release, hit bool) func(int) error {
		return func(int) error {
			r := from[w.rng.IntN(len(from))]
			m, err := w.anyBut(r.Name(verify.Mod))
			if err != nil {
				return err
			}
			return ask(m, hit, r)
		}
	}
	if q.Hit, err = w.each(count, one(known, true), exchange.RecordsID); err != nil {
		return q, err
	}
	if q.Miss, err = w.each(count, one(unknown, false), exchange.RecordsID); err != nil {
		return q, err
	}
	q.BatchOf = min(batchOf, len(known))
	if q.Batch, err = w.each(max(count/10, 1), func(int) error { return ask(w.any(), true, known[:q.BatchOf]...) }, exchange.RecordsID); err != nil {
		return q, err
	}
	q.Claimed = min(count, len(unknown))
	q.Claim, err = w.each(q.Claimed, func(i int) error {
		m, r := w.any(), unknown[i]
		if _, err := m.claim(ctx, r, verify.Mod); err != nil {
			return err
		}
		q.Fetched += w.Fetches(r.Name(verify.Mod))
		return nil
	}, exchange.ClaimID)
	q.Claim.P50 -= millis(w.cfg.Upstream)
	q.Claim.P99 -= millis(w.cfg.Upstream)
	return q, err
}

// Crowd is what happens when every member wants the same new file.
type Crowd struct {
	Members  int
	Spread   float64 // seconds within which they ask
	Fetched  int     // fetches from the world outside
	P50, P99 float64 // time until a member has it, in milliseconds
	Messages float64 // for each member
	Bytes    float64
	MostOpen int     // streams at the busiest member at one time
	HomeSent float64 // bytes that the busiest member sent
}

// MeasureCrowd lets every member ask for one go.mod that nobody has, at random
// moments of a span.
func (w *World) MeasureCrowd(ctx context.Context, r *Release, spread time.Duration) (c Crowd, err error) {
	c.Members, c.Spread = len(w.members), spread.Seconds()
	before := w.net.Counts()
	took := make([]time.Duration, len(w.members))
	errs := make([]error, len(w.members))
	var wg sync.WaitGroup
	for i, m := range w.members {
		at := time.Duration(w.rng.Int64N(int64(spread)))
		wg.Go(func() {
			time.Sleep(at)
			start := time.Now()
			_, errs[i] = m.Get(ctx, r, verify.Mod)
			took[i] = time.Since(start)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	time.Sleep(2 * time.Second)
	sent, n := w.net.Counts().Since(before).Total(), float64(c.Members)
	c.Fetched = w.Fetches(r.Name(verify.Mod))
	c.P50, c.P99 = quantile(took, 0.5), quantile(took, 0.99)
	c.Messages, c.Bytes = float64(sent.Messages)/n, float64(sent.Bytes)/n
	for _, m := range w.members {
		c.MostOpen = max(c.MostOpen, m.host.mostStreams())
		c.HomeSent = max(c.HomeSent, float64(m.host.sent.Load()))
	}
	return c, nil
}

// State is what a member keeps.
type State struct {
	Members, Releases int
	Records           float64 // signed records at a member, on average
	MostRecords       int
	Envelopes         float64 // bytes of them, on average
	Zips              float64
	MostZips          int
}

// MeasureState counts what members hold.
func (w *World) MeasureState(releases int) State {
	s := State{Members: len(w.members), Releases: releases}
	up := w.Up()
	for _, m := range up {
		m.backend.mu.RLock()
		records, zips := len(m.backend.records), len(m.backend.zips)
		s.Envelopes += float64(m.backend.envelopes) / float64(len(up))
		m.backend.mu.RUnlock()
		s.Records += float64(records) / float64(len(up))
		s.Zips += float64(zips) / float64(len(up))
		s.MostRecords, s.MostZips = max(s.MostRecords, records), max(s.MostZips, zips)
	}
	return s
}
