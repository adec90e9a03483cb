package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
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

// untilHourly is more than repair takes after a loss, and less than passes before it
// looks at everything again.
const untilHourly = 10 * time.Minute

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
		r, err := w.MeasureRepair(all, 1.0/3, 0, untilHourly)
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

// TestHomePeersVanish takes away all home peers of some releases at once, and with
// them everybody who knew that a member far from the release holds it. Those who are
// at home then look in any order, and some before that member tells them.
func TestHomePeersVanish(t *testing.T) {
	for _, seed := range []uint64{6, 7, 8} {
		t.Run(fmt.Sprintf("world %d", seed), func(t *testing.T) {
			simulate(t, Config{Seed: seed, Members: members, Repair: true}, 40, func(t *testing.T, w *World, all []*Release) {
				if err := w.Fill(t.Context(), all, verify.Zip); err != nil {
					t.Fatal(err)
				}
				if !w.Restore(all, 10*time.Minute) {
					t.Fatal("releases do not have their copies ten minutes after their fetch")
				}
				var lost []*Member
				for _, r := range all {
					if homes := w.nearest(r)[:3]; len(lost) < members/3 {
						lost = append(lost, slices.DeleteFunc(homes, func(m *Member) bool { return slices.Contains(lost, m) })...)
					}
				}
				r, err := w.MeasureLoss(all, lost, 0, untilHourly)
				if err != nil {
					t.Fatal(err)
				}
				if r.Lacking == 0 || !r.Done {
					t.Errorf("of %d releases that lacked copies, %d still do after %.0f minutes", r.Lacking, r.Unrepaired, r.Took)
				}
			})
		})
	}
}

// nearest returns all members, those that are at home for a release first.
func (w *World) nearest(r *Release) []*Member {
	text := sha256.Sum256([]byte(r.Module.Path + "@" + r.Module.Version))
	distance := func(m *Member) []byte {
		d := sha256.Sum256([]byte(m.host.id))
		for i := range d {
			d[i] ^= text[i]
		}
		return d[:]
	}
	return slices.SortedFunc(slices.Values(w.members), func(a, b *Member) int { return bytes.Compare(distance(a), distance(b)) })
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
