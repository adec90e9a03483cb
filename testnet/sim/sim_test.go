package sim

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

// members is how many a test's world has: enough that home peers are a small part
// of them, and that who is asked besides is bounded.
const members = 60

// simulate runs a world in a bubble of simulated time.
func simulate(t *testing.T, cfg Config, releases int, run func(t *testing.T, w *World, releases []*Release)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, all, err := New(cfg, releases)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}()
		run(t, w, all)
	})
}

// limit is more simulated time than anything here takes.
const limit = 5 * time.Minute

func get(t *testing.T, m *Member, r *Release, k verify.Kind) Source {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	from, err := m.Get(ctx, r, k)
	if err != nil {
		t.Errorf("%s asks for %v: %v", m.office, r.Name(k), err)
	} else if !m.backend.holds(r.Name(k)) {
		t.Errorf("%s does not hold %v that it got from %s", m.office, r.Name(k), from)
	}
	return from
}

func TestEachNameIsFetchedOnce(t *testing.T) {
	for name, k := range map[string]verify.Kind{"a go.mod": verify.Mod, "a zip": verify.Zip} {
		t.Run(name, func(t *testing.T) {
			simulate(t, Config{Seed: 1, Members: members}, 3, func(t *testing.T, w *World, all []*Release) {
				var wg sync.WaitGroup
				for _, m := range w.Up() {
					for _, r := range all {
						wg.Go(func() { get(t, m, r, k) })
					}
				}
				wg.Wait()
				for _, r := range all {
					if n := w.Fetches(r.Name(k)); n != 1 {
						t.Errorf("%v was fetched %d times, want once for %d members that ask at once", r.Name(k), n, members)
					}
				}
			})
		})
	}
}

func TestQuestionsGoToFew(t *testing.T) {
	simulate(t, Config{Seed: 2, Members: members}, 40, func(t *testing.T, w *World, all []*Release) {
		q, err := w.MeasureQuestions(t.Context(), all, 20)
		if err != nil {
			t.Fatal(err)
		}
		// Three home peers and sixteen connected members at most; a request, an entry
		// and its end are written together. A record that only one of them has is asked
		// for once more.
		const most = 3 + 16 + 2
		for name, c := range map[string]Cost{"a hit": q.Hit, "a miss": q.Miss} {
			if c.Streams > most || c.Messages > 2*most {
				t.Errorf("%s costs %.1f streams and %.1f messages among %d members, want at most %d and %d", name, c.Streams, c.Messages, members, most, 2*most)
			}
		}
		if q.Claim.Streams > 1.5 {
			t.Errorf("a claim costs %.1f streams, want one in a quiet mesh", q.Claim.Streams)
		}
		if q.Fetched != q.Claimed {
			t.Errorf("%d claims led to %d fetches", q.Claimed, q.Fetched)
		}
	})
}

func TestAThirdVanishes(t *testing.T) {
	simulate(t, Config{Seed: 3, Members: members, Repair: true}, 30, func(t *testing.T, w *World, all []*Release) {
		if err := w.Fill(t.Context(), all, verify.Mod, verify.Zip); err != nil {
			t.Fatal(err)
		}
		if !w.Restore(all, 10*time.Minute) {
			t.Fatal("releases do not have their copies ten minutes after their fetch")
		}
		r, err := w.MeasureRepair(all, 1.0/3, 0, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if r.Lacking == 0 || !r.Done {
			t.Errorf("of %d releases that lacked copies, %d still do after %.0f minutes", r.Lacking, r.Unrepaired, r.Took)
		}
		if r.Pulls < int64(r.Lacking) || r.Pulls > 3*int64(r.Lacking) {
			t.Errorf("%d copies were made for %d releases that lacked one", r.Pulls, r.Lacking)
		}
		if failed := w.Served(t.Context(), all, verify.Mod, verify.Zip); len(failed) > 0 {
			t.Errorf("after a third of the members vanished, these cannot be had: %v", failed)
		}
	})
}

func TestAFetcherVanishes(t *testing.T) {
	simulate(t, Config{Seed: 4, Members: members, Upstream: 10 * time.Second}, 1, func(t *testing.T, w *World, all []*Release) {
		r := all[0]
		var wg sync.WaitGroup
		fetcher := w.members[0]
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() { fetcher.Get(ctx, r, verify.Zip) })
		time.Sleep(3 * time.Second)
		for _, m := range w.members[1:20] {
			wg.Go(func() { get(t, m, r, verify.Zip) })
		}
		time.Sleep(time.Second)
		w.net.cut([]*Host{fetcher.host})
		cancel()
		wg.Wait()
		if n := w.Fetches(r.Name(verify.Zip)); n != 2 {
			t.Errorf("%d fetches, want the one that was lost and one by the next in line", n)
		}
	})
}

func TestRepairGoesOnWhileMembersComeAndGo(t *testing.T) {
	simulate(t, Config{Seed: 5, Members: members, Repair: true}, 20, func(t *testing.T, w *World, all []*Release) {
		if err := w.Fill(t.Context(), all, verify.Zip); err != nil {
			t.Fatal(err)
		}
		if !w.Restore(all, 10*time.Minute) {
			t.Fatal("releases do not have their copies ten minutes after their fetch")
		}
		// More often than repair waits for things to settle.
		r, err := w.MeasureRepair(all, 0.2, 40*time.Second, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if r.Lacking == 0 || !r.Done {
			t.Errorf("of %d releases that lacked copies, %d still do after %.0f minutes in which others were restarted", r.Lacking, r.Unrepaired, r.Took)
		}
	})
}
