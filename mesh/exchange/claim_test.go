package exchange

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

// claimAll lets every office claim n at once and calls fetch for each that is
// told to; it returns the claims in the order of the offices.
func claimAll(t *testing.T, w *world, n verify.Name, fetch func(*office, *Lease)) []*Claim {
	t.Helper()
	claims := make([]*Claim, len(w.offices))
	var wg sync.WaitGroup
	for i, o := range w.offices {
		wg.Go(func() {
			c, err := o.x.Claim(t.Context(), n)
			if err != nil {
				t.Errorf("%s: %v", o.name, err)
				return
			}
			claims[i] = c
			if c.Outcome == Fetch {
				fetch(o, c.Lease)
			}
		})
	}
	wg.Wait()
	return claims
}

func TestHerdFetchesOnce(t *testing.T) {
	w := newWorld(t, 50)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	var fetches atomic.Int32
	claims := claimAll(t, w, r.name(verify.Zip), func(o *office, l *Lease) {
		fetches.Add(1)
		time.Sleep(50 * time.Millisecond)
		if err := l.Done(t.Context(), o.admit(r)); err != nil {
			t.Error(err)
		}
	})
	if n := fetches.Load(); n != 1 {
		t.Fatalf("%d offices were told to fetch, want exactly 1", n)
	}
	for i, c := range claims {
		if c.Outcome == Fetch {
			continue
		}
		if c.Outcome != Held || c.Record.Record.Digest != r.root || len(c.Holders) == 0 {
			t.Errorf("%s: %v with %d holders, want the record and a holder", w.offices[i].name, c.Outcome, len(c.Holders))
		}
	}
	// Whoever asks later is told as well.
	c, err := w.offices[7].x.Claim(t.Context(), r.name(verify.Zip))
	if err != nil || c.Outcome != Held {
		t.Errorf("a later claim: %+v, %v", c, err)
	}
}

func TestKilledFetcherIsReplaced(t *testing.T) {
	w := newWorld(t, 6)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	home := w.home(homeKey(r.name(verify.Zip)), 0)
	var first sync.Once
	var fetches atomic.Int32
	var wg sync.WaitGroup
	for _, o := range w.offices {
		if o == home {
			continue // so that the fetcher is remote
		}
		wg.Go(func() {
			c, err := o.x.Claim(t.Context(), r.name(verify.Zip))
			if err != nil {
				return // the one that was killed
			}
			if c.Outcome != Fetch {
				if c.Outcome != Held {
					t.Errorf("%s: %v", o.name, c.Outcome)
				}
				return
			}
			fetches.Add(1)
			killed := false
			first.Do(func() { killed = true; o.stop() })
			if !killed {
				if err := c.Lease.Done(t.Context(), o.admit(r)); err != nil {
					t.Error(err)
				}
			}
			c.Lease.Close()
		})
	}
	wg.Wait()
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2: one for the failure", n)
	}
}

func TestKilledHomeCostsAtMostOneFetch(t *testing.T) {
	w := newWorld(t, 8)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	home := w.home(homeKey(r.name(verify.Zip)), 0)
	var fetches atomic.Int32
	var kill sync.Once
	var wg sync.WaitGroup
	for _, o := range w.offices {
		if o == home {
			continue
		}
		wg.Go(func() {
			c, err := o.x.Claim(t.Context(), r.name(verify.Zip))
			if err != nil {
				t.Error(err)
				return
			}
			if c.Outcome != Fetch {
				if c.Outcome != Held {
					t.Errorf("%s: %v", o.name, c.Outcome)
				}
				return
			}
			fetches.Add(1)
			kill.Do(func() {
				eventually(t, "the others wait", func() bool { return home.x.desk.waiting(claimKey(r.name(verify.Zip))) == 6 })
				home.stop()
			})
			time.Sleep(200 * time.Millisecond)
			if err := c.Lease.Done(t.Context(), o.admit(r)); err != nil {
				t.Errorf("%s: %v", o.name, err)
			}
		})
	}
	wg.Wait()
	if n := fetches.Load(); n > 2 {
		t.Errorf("%d fetches, want at most 2: one for the failure", n)
	}
}

func TestFailuresPassOnAndEnd(t *testing.T) {
	w := newWorld(t, 10)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 1))
	home := w.home(homeKey(r.name(verify.Zip)), 0)
	var fetches atomic.Int32
	claims := claimAll(t, w, r.name(verify.Zip), func(_ *office, l *Lease) {
		if fetches.Add(1) == 1 { // the others are there when the first one fails
			eventually(t, "the others wait", func() bool { return home.x.desk.waiting(claimKey(r.name(verify.Zip))) == 9 })
		}
		if err := l.Fail(t.Context(), "upstream: connection refused"); err != nil {
			t.Error(err)
		}
	})
	if n := fetches.Load(); n != maxTries {
		t.Errorf("%d fetches, want %d before all are told", n, maxTries)
	}
	for _, c := range claims {
		if c.Outcome != Fetch && (c.Outcome != Failed || c.Text != "upstream: connection refused") {
			t.Errorf("told %v %q", c.Outcome, c.Text)
		}
	}
}

func TestRefusalIsPassedOn(t *testing.T) {
	w := newWorld(t, 10)
	n := verify.Name{Module: newRelease(t, "example.test/m", "v1.0.0", sources(1, 1)).module, Kind: verify.Info}
	var fetches atomic.Int32
	claims := claimAll(t, w, n, func(_ *office, l *Lease) {
		fetches.Add(1)
		time.Sleep(20 * time.Millisecond)
		if err := l.Refuse(t.Context(), 404, "unknown revision"); err != nil {
			t.Error(err)
		}
	})
	if fetches.Load() != 1 {
		t.Errorf("%d fetches, want 1", fetches.Load())
	}
	for _, c := range claims {
		if c.Outcome != Fetch && (c.Outcome != Refused || c.Code != 404) {
			t.Errorf("told %v %d", c.Outcome, c.Code)
		}
	}
}

func TestAnswersAreFetchedOncePerAge(t *testing.T) {
	w := newWorld(t, 10)
	const key = "example.test/m list"
	var fetches atomic.Int32
	round := func(age time.Duration) {
		var wg sync.WaitGroup
		for _, o := range w.offices {
			wg.Go(func() {
				c, err := o.x.ClaimAnswer(t.Context(), key, age)
				if err != nil {
					t.Error(err)
					return
				}
				if c.Outcome == Fetch {
					fetches.Add(1)
					if err := o.store.SetMutable(key, []byte("v1.0.0\n"), time.Now()); err != nil {
						t.Error(err)
					}
					if err := c.Lease.Answer(t.Context(), []byte("v1.0.0\n"), time.Now()); err != nil {
						t.Error(err)
					}
				} else if c.Outcome != Answered || string(c.Value) != "v1.0.0\n" {
					t.Errorf("%s: %v %q", o.name, c.Outcome, c.Value)
				}
			})
		}
		wg.Wait()
	}
	round(time.Minute)
	round(time.Minute)
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d fetches in two rounds, want 1", n)
	}
	// Not the home peer, whichever that is: it has no other office to learn it from.
	asker := w.offices[slices.IndexFunc(w.offices, func(o *office) bool { _, _, err := o.store.Mutable(key); return err != nil })]
	a, err := asker.x.Answers(t.Context(), key, true)
	if err != nil || string(a[0].Value) != "v1.0.0\n" {
		t.Errorf("answers: %v, %v", a, err)
	}
}

func TestAloneEachFetchesForItself(t *testing.T) {
	w := newWorld(t, 1)
	w.mu.Lock()
	w.members["12D3KooWGoneGoneGoneGone"] = "gone"
	w.mu.Unlock()
	n := newRelease(t, "example.test/m", "v1.0.0", sources(1, 1)).name(verify.Zip)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := w.offices[0].x.Claim(ctx, n)
	if err != nil || c.Outcome != Fetch {
		t.Fatalf("%+v, %v", c, err)
	}
	c.Lease.Close()
}

func TestStalledFetcherIsReplaced(t *testing.T) {
	w := newWorld(t, 4, func(_ int, c *Config) { c.Stall = 2 * time.Second })
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 1))
	var fetches, done atomic.Int32
	claimAll(t, w, r.name(verify.Zip), func(o *office, l *Lease) {
		defer l.Close()
		if fetches.Add(1) == 1 { // alive, but without progress
			eventually(t, "another one is done", func() bool { return done.Load() > 0 })
			return
		}
		stop := progressing(l)
		defer stop()
		if err := l.Done(t.Context(), o.admit(r)); err != nil {
			t.Error(err)
		}
		done.Add(1)
	})
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

// progressing reports progress on a lease all the time, as a fetch does that bytes
// come in for, until stop is called.
func progressing(l *Lease) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(heartbeat / 2)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.Progress(1)
			case <-ended:
				return
			}
		}
	}()
	return func() { close(ended); <-done }
}

// TestOneMishapDoesNotSplitTheHerd makes an office believe that the home peer is
// dead: the next one knows better, and sends it there.
func TestOneMishapDoesNotSplitTheHerd(t *testing.T) {
	w := newWorld(t, 6)
	n := newRelease(t, "example.test/m", "v1.0.0", sources(1, 1)).name(verify.Zip)
	home, asker := w.home(homeKey(n), 0), w.home(homeKey(n), 5)
	first, err := w.home(homeKey(n), 3).x.Claim(t.Context(), n)
	if err != nil || first.Outcome != Fetch || first.Home != home.id() {
		t.Fatal(first, err)
	}
	for range 3 {
		asker.x.health.failed(home.id())
	}
	told := make(chan *Claim, 1)
	go func() {
		c, err := asker.x.Claim(t.Context(), n)
		if err != nil {
			t.Error(err)
		}
		told <- c
	}()
	eventually(t, "the asker waits at the home peer", func() bool { return home.x.desk.waiting(claimKey(n)) == 1 })
	if err := first.Lease.Refuse(t.Context(), 404, "none"); err != nil {
		t.Error(err)
	}
	if c := <-told; c == nil || c.Outcome != Refused || c.Home != home.id() {
		t.Errorf("told %+v", c)
	}
}

// TestHomeKilledWhileItIsTold kills the home peer at the moment when the fetcher
// reports.
func TestHomeKilledWhileItIsTold(t *testing.T) {
	w := newWorld(t, 8)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	home := w.home(homeKey(r.name(verify.Zip)), 0)
	var fetches atomic.Int32
	var kill sync.Once
	var wg sync.WaitGroup
	for _, o := range w.offices {
		if o == home {
			continue
		}
		wg.Go(func() {
			c, err := o.x.Claim(t.Context(), r.name(verify.Zip))
			if err != nil {
				t.Error(err)
				return
			}
			if c.Outcome != Fetch {
				return
			}
			fetches.Add(1)
			eventually(t, "the others wait", func() bool {
				return fetches.Load() > 1 || home.x.desk.waiting(claimKey(r.name(verify.Zip))) == 6
			})
			s := o.admit(r)
			wg.Go(func() { kill.Do(home.stop) })
			if err := c.Lease.Done(t.Context(), s); err != nil {
				t.Errorf("%s: %v", o.name, err)
			}
		})
	}
	wg.Wait()
	if n := fetches.Load(); n > 2 {
		t.Errorf("%d fetches, want at most 2", n)
	}
}
