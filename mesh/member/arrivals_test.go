package member

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestSinceBringsUpToDate: who had what was there at some time, and is given what has
// come since, has the same.
func TestSinceBringsUpToDate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		all := drawStatements(t, w)
		some := rapid.IntRange(0, len(all)).Draw(t, "some")
		a := w.roster()
		_, _ = a.Merge(all[:some], start) // what does not hold is left out
		b, n := a.Clone(), a.Arrivals()
		_, _ = a.Merge(all, start)
		news := a.Since(n, 1<<20)
		if _, err := b.Merge(news, start); err != nil || a.Sum() != b.Sum() {
			t.Fatalf("%d of %d statements later the sets differ: %v", len(news), len(all), err)
		}
		if len(a.Since(a.Arrivals(), 1<<20)) != 0 {
			t.Fatal("there is news for one who has all")
		}
	})
}

func TestSinceHasLimits(t *testing.T) {
	w := newWorld(t)
	r := w.roster()
	w.add(r, w.root)
	for range maxArrivals {
		w.add(r, w.issue(w.root, w.founder, nodeGrant(w.signer().Public, Member, "x", start)))
	}
	cases := map[string]struct {
		since uint64
		limit int
		want  int
	}{
		"all that is remembered":     {1, 1 << 20, maxArrivals},
		"before what is remembered":  {0, 1 << 20, 0},
		"the last one":               {maxArrivals, 1 << 20, 1},
		"more than there were":       {maxArrivals + 2, 1 << 20, 0},
		"more than fits":             {1, 1 << 10, 0},
		"more than fits, by a byte":  {maxArrivals, r.newest[maxArrivals-1].Size() - 1, 0},
		"as much as fits, to a byte": {maxArrivals, r.newest[maxArrivals-1].Size(), 1},
	}
	for name, c := range cases {
		if got := r.Since(c.since, c.limit); len(got) != c.want {
			t.Errorf("%s: %d statements, want %d", name, len(got), c.want)
		}
	}
}

// TestClonesHaveTheirOwnArrivals: what enters one is not told of by the other.
func TestClonesHaveTheirOwnArrivals(t *testing.T) {
	w := newWorld(t)
	r := w.roster()
	w.add(r, w.root)
	node := func() *Credential {
		return w.issue(w.root, w.founder, nodeGrant(w.signer().Public, Member, "x", start))
	}
	for range 5 { // so that there is room behind the last one
		w.add(r, node())
	}
	c, n := r.Clone(), r.Arrivals()
	first, second := node(), node()
	w.add(c, first)
	w.add(r, second)
	for name, got := range map[string]bool{
		"the clone":    slices.Equal(c.Since(n, 1<<20)[0].Credential, first.Bytes()),
		"the original": slices.Equal(r.Since(n, 1<<20)[0].Credential, second.Bytes()),
	} {
		if !got {
			t.Errorf("%s tells what entered the other", name)
		}
	}
}
