package exchange

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestCrowdSparesTheFirstHolder lets many offices fetch one release at the same time
// from an office with a narrow link. They get most of it from each other.
func TestCrowdSparesTheFirstHolder(t *testing.T) {
	const askers = 8
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 150))
	w := newWorld(t, 1+askers, func(i int, c *Config) {
		if i == 0 {
			c.Up = Bandwidth{Total: 128 << 10}
		}
	})
	first := w.offices[0]
	first.admit(r)
	var one int64 // what one of them got
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, o := range w.offices[1:] {
		wg.Go(func() {
			stats, err := o.fetch(t.Context(), r, first.id())
			if err != nil {
				t.Errorf("%s: %v", o.name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			one = stats.Bytes
		})
	}
	wg.Wait()
	for _, o := range w.offices[1:] {
		o.served(r)
	}
	sent := int64(first.x.limits.sent.Load())
	t.Logf("%d offices that lacked %d bytes each had %.2f times that from the first holder", askers, one, float64(sent)/float64(one))
	if sent > askers*one/2 {
		t.Errorf("the first holder sent %d bytes for %d offices that lacked %d each; want less than half of all", sent, askers, one)
	}
}

// TestWhoIsFetchingIsAHolder asks nobody but an office that has a part of a release
// and waits for the rest itself.
func TestWhoIsFetchingIsAHolder(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 100))
	w := newWorld(t, 3)
	holder, between, asker := w.offices[0], w.offices[1], w.offices[2]
	holder.admit(r)
	gate := make(chan struct{})
	adversary{hold: func(ctx context.Context, n int) {
		if n == 50 {
			await(ctx, gate)
		}
	}}.takeOver(holder)
	first := between.begin(r, holder.id())
	eventually(t, "a part is there", func() bool { return len(between.missing()) <= 53 })
	second := asker.begin(r, between.id())
	eventually(t, "it is handed on", func() bool { return len(asker.missing()) <= 53 })
	close(gate)
	for _, tr := range []*Transfer{first, second} {
		if _, err := tr.Done(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if stats, _ := second.Done(t.Context()); stats.From[between.id()] != stats.Bytes {
		t.Errorf("%d of %d bytes came from the office that was fetching", stats.From[between.id()], stats.Bytes)
	}
}

// TestWaitingForOneAnotherEnds has two offices with the same half of a release, and
// nobody else, ask each other.
func TestWaitingForOneAnotherEnds(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 100))
	w := newWorld(t, 3)
	holder := w.offices[0]
	holder.admit(r)
	adversary{file: func(n int, _ *fileHead, data []byte) ([]byte, error) {
		if n == 50 {
			return nil, errHang
		}
		return data, nil
	}}.takeOver(holder)
	var pulls []*Transfer
	for i, o := range w.offices[1:] {
		pulls = append(pulls, o.begin(r, holder.id(), w.offices[2-i].id()))
		eventually(t, "half is there", func() bool { return len(o.missing()) <= 53 })
	}
	holder.stop()
	for _, tr := range pulls {
		if _, err := tr.Done(t.Context()); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnknown", err)
		}
	}
}
