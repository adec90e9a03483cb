package exchange

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// holdings lets an office's repair work on its store.
type holdings struct {
	o     *office
	of    func(verify.Name) *release
	pulls *atomic.Int32
}

func (h holdings) Names(ctx context.Context, fn func(verify.Name) error) error {
	return h.o.store.Releases(ctx, func(r store.Release) error {
		for _, k := range r.Kinds {
			if err := fn(verify.Name{Module: r.Module, Kind: k}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h holdings) Obtain(ctx context.Context, s *verify.Signed, holders []peer.ID) error {
	h.pulls.Add(1)
	if h.o.full {
		return errors.New("no space left")
	}
	_, err := h.o.fetch(ctx, h.of(s.Record.Name), holders...)
	return err
}

// repairing runs repair on every office until the test ends.
func (w *world) repairing(of func(verify.Name) *release) *atomic.Int32 {
	pulls := new(atomic.Int32)
	for _, o := range w.offices {
		o.repairing(holdings{o, of, pulls}, time.Second)
	}
	return pulls
}

// repairing runs repair on one office until the test ends.
func (o *office) repairing(h holdings, every time.Duration) {
	o.repairingAs(RepairOptions{Holdings: h, Settle: 100 * time.Millisecond, Soon: 20 * time.Millisecond, Every: every})
}

func (o *office) repairingAs(options RepairOptions) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { o.x.Repair(ctx, options) })
	o.t.Cleanup(func() { cancel(); wg.Wait() })
}

// holding returns the offices still up that hold a release.
func (w *world) holding(r *release, down map[*office]bool) (all []*office) {
	for _, o := range w.offices {
		if !down[o] && o.store.HasZip(r.root) {
			all = append(all, o)
		}
	}
	return all
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Errorf("still not: %s", what) // also called beside the test's own goroutine
			return
		}
	}
}

func TestReplicasAreMadeAndKeptUp(t *testing.T) {
	w := newWorld(t, 7)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 20))
	pulls := w.repairing(func(verify.Name) *release { return r })
	first := w.home(homeKey(r.name(verify.Zip)), 6)
	s := first.admit(r)
	if _, err := first.x.Push(t.Context(), []*verify.Signed{s}, func(*verify.Signed) bool { return true }); err != nil {
		t.Fatal(err)
	}
	down := map[*office]bool{}
	eventually(t, "two offices hold it", func() bool { return len(w.holding(r, down)) == 2 })
	for range 2 {
		lost := w.holding(r, down)[0]
		down[lost] = true
		lost.stop()
		eventually(t, "two offices hold it again", func() bool { return len(w.holding(r, down)) == 2 })
	}
	time.Sleep(time.Second) // whoever pulls too much, does it now
	if n := pulls.Load(); n != 3 {
		t.Errorf("%d pulls, want 3: one copy at first, and one for each of 2 that were lost", n)
	}
}

// TestCopiesStandInDifferentOffices has all home peers in the office that holds the
// zip: the copy goes further.
func TestCopiesStandInDifferentOffices(t *testing.T) {
	w := newWorld(t, 7)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3))
	near := func(n int) *office { return w.home(homeKey(r.name(verify.Zip)), n) }
	w.mu.Lock()
	for n := range 5 {
		w.members[near(n).id()] = "one office"
	}
	w.mu.Unlock()
	near(0).admit(r)
	pulls := w.repairing(func(verify.Name) *release { return r })
	eventually(t, "another office holds it", func() bool { return near(5).store.HasZip(r.root) })
	time.Sleep(time.Second) // whoever pulls too much, does it now
	if n := pulls.Load(); n != 1 {
		t.Errorf("%d pulls, want 1", n)
	}
}

// TestAnotherMakesTheCopyThatOneCannot fills the disk of the office whose turn it is.
func TestAnotherMakesTheCopyThatOneCannot(t *testing.T) {
	w := newWorld(t, 4)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3))
	near := func(n int) *office { return w.home(homeKey(r.name(verify.Zip)), n) }
	near(0).admit(r)
	near(1).full = true
	w.repairing(func(verify.Name) *release { return r })
	eventually(t, "the next one holds it", func() bool { return near(2).store.HasZip(r.root) })
}

func TestNewHomePeersAreTold(t *testing.T) {
	w := newWorld(t, 2)
	gomod := "module example.test/m\n"
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3))
	s := w.offices[0].admitMod(r.module, gomod)
	w.repairing(func(verify.Name) *release { return r })
	eventually(t, "the other office has the record", func() bool {
		got, err := w.offices[1].store.Record(s.Record.Name)
		return err == nil && got.Record.Digest == s.Record.Digest
	})
}

// TestAKeeperLooksAgainWhenItHearsWhoHoldsAZip has an office look at all that it has
// records of while nobody is known to hold one of the zips. Who holds it says so only
// afterwards, as in a mesh where it is not among those who are asked.
func TestAKeeperLooksAgainWhenItHearsWhoHoldsAZip(t *testing.T) {
	w := newWorld(t, 2)
	holder, keeper := w.offices[0], w.offices[1]
	late := newRelease(t, "example.test/late", "v1.0.0", sources(1, 3))
	there := newRelease(t, "example.test/there", "v1.0.0", sources(2, 3))
	of := func(n verify.Name) *release {
		if n == late.name(verify.Zip) {
			return late
		}
		return there
	}
	holder.admit(there)
	for _, r := range []*release{late, there} {
		if err := keeper.store.Commit(t.Context(), keeper.sign(r.name(verify.Zip), r.root, nil, r.size), nil); err != nil {
			t.Fatal(err)
		}
	}
	pulls := new(atomic.Int32)
	keeper.repairing(holdings{keeper, of, pulls}, 24*time.Hour)
	// It asked about both at once, so it has heard by then that nobody holds the other.
	eventually(t, "what somebody holds is copied", func() bool { return keeper.store.HasZip(there.root) })
	holder.admit(late)
	holder.repairing(holdings{holder, of, pulls}, 24*time.Hour)
	eventually(t, "what somebody turned out to hold is copied, too", func() bool { return keeper.store.HasZip(late.root) })
}

func TestTheLastCopiesAreNotDropped(t *testing.T) {
	w := newWorld(t, 4)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3))
	n := r.name(verify.Zip)
	ask := func(o *office) bool {
		may, err := o.x.MayDrop(t.Context(), n, r.root, 1)
		if err != nil {
			t.Error(err)
		}
		return may
	}
	a, b, c := w.offices[0], w.offices[1], w.offices[2]
	a.admit(r)
	if ask(a) {
		t.Error("the only copy may be dropped")
	}
	b.admit(r)
	c.admit(r)
	copies, err := w.offices[3].x.Copies(t.Context(), []verify.Name{n})
	if err != nil || len(copies[0]) != 3 {
		t.Errorf("copies: %v, %v", copies, err)
	}
	// All three ask at once, and drop if they may.
	var wg sync.WaitGroup
	var dropped atomic.Int32
	for _, o := range []*office{a, b, c} {
		wg.Go(func() {
			if ask(o) {
				dropped.Add(1)
			}
		})
	}
	wg.Wait()
	if dropped.Load() == 3 {
		t.Error("all copies may be dropped")
	}
	if !ask(a) && dropped.Load() == 0 {
		t.Error("with two other copies, one may be dropped")
	}
}

// TestWhatAHomePeerHeardInAClaimIsCopied: the home peer of many names knows their
// records and who holds them from the claims, so that news of them bring nothing but
// that it is time to look.
func TestWhatAHomePeerHeardInAClaimIsCopied(t *testing.T) {
	w := newWorld(t, 2)
	first, home := w.offices[0], w.offices[1]
	releases := map[verify.Name]*release{}
	var news []*verify.Signed
	for len(news) < minOffered {
		n := w.someName(func(n verify.Name) bool {
			n.Kind = verify.Zip
			return releases[n] == nil && w.home(homeKey(n), 0) == home
		})
		r := newRelease(t, n.Module.Path, n.Module.Version, sources(uint64(len(news)+1), 2))
		releases[r.name(verify.Zip)] = r
		claim, err := first.x.Claim(t.Context(), r.name(verify.Zip))
		if err != nil || claim.Outcome != Fetch || claim.Home != home.id() {
			t.Fatalf("%v, %v", claim, err)
		}
		s := first.admit(r)
		if err := claim.Lease.Done(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		news = append(news, s)
	}
	pulls := new(atomic.Int32)
	h := holdings{home, func(n verify.Name) *release { return releases[n] }, pulls}
	const never = 24 * time.Hour // is there a look at everything, which would find them
	home.repairingAs(RepairOptions{Holdings: h, Settle: never, Soon: 20 * time.Millisecond, Every: never})
	if _, err := first.x.Push(t.Context(), news, isHeld); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the home peer has copies", func() bool { return pulls.Load() == minOffered })
}
