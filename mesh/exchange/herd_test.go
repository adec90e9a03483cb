package exchange

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// project is the files that a build asks for: .info, .mod and .zip of some modules,
// and their lists.
type project struct {
	releases []*release
	names    []verify.Name
	keys     []string
}

func newProject(t testing.TB, modules int) *project {
	p := &project{}
	for i := range modules {
		r := newRelease(t, fmt.Sprintf("example.test/m%d", i), "v1.0.0", sources(uint64(i), 3))
		p.releases = append(p.releases, r)
		for _, k := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
			p.names = append(p.names, r.name(k))
		}
		p.keys = append(p.keys, r.module.Path+" list")
	}
	return p
}

// fetch is what an office does that is told to fetch a file.
func (p *project) fetch(o *office, n verify.Name) *verify.Signed {
	for _, r := range p.releases {
		if r.module != n.Module {
			continue
		}
		switch n.Kind {
		case verify.Zip:
			return o.admit(r)
		case verify.Mod:
			return o.admitMod(r.module, "module "+r.module.Path+"\n")
		}
		return o.admitInfo(r.module)
	}
	panic("no such file: " + n.String())
}

func (o *office) admitInfo(m module.Version) *verify.Signed {
	data := fmt.Appendf(nil, `{"Version":%q,"Time":"2024-01-02T03:04:05Z"}`, m.Version)
	s := o.sign(verify.Name{Module: m, Kind: verify.Info}, verify.DigestOf(data), data, int64(len(data)))
	if err := o.store.Commit(o.t.Context(), s, nil); err != nil {
		o.t.Error(err)
	}
	return s
}

// herd has the first n offices of a world ask for all of a project at once, each for
// every file at the same time, and returns how often somebody was told to fetch.
func herd(t testing.TB, w *world, n int, p *project) int {
	var mu sync.Mutex
	fetches := 0
	var wg sync.WaitGroup
	told := func(c *Claim, err error, done func(*Lease) error) {
		if err != nil {
			t.Error(err)
			return
		}
		if c.Outcome != Fetch {
			return
		}
		mu.Lock()
		fetches++
		mu.Unlock()
		if err := done(c.Lease); err != nil {
			t.Error(err)
		}
	}
	for _, o := range w.offices[:n] {
		for _, name := range p.names {
			wg.Go(func() {
				c, err := o.x.Claim(t.Context(), name)
				told(c, err, func(l *Lease) error { return l.Done(t.Context(), p.fetch(o, name)) })
			})
		}
		for _, key := range p.keys {
			wg.Go(func() {
				c, err := o.x.ClaimAnswer(t.Context(), key, time.Hour)
				told(c, err, func(l *Lease) error {
					if err := o.store.SetMutable(key, []byte("v1.0.0\n"), time.Now()); err != nil {
						return err
					}
					return l.Answer(t.Context(), []byte("v1.0.0\n"), time.Now())
				})
			})
		}
	}
	wg.Wait()
	return fetches
}

// TestHerdFetchesAProjectOnce has many offices ask for all files of a project at the
// same moment.
func TestHerdFetchesAProjectOnce(t *testing.T) {
	p := newProject(t, 3)
	w := newWorld(t, 8)
	if got, want := herd(t, w, len(w.offices), p), len(p.names)+len(p.keys); got != want {
		t.Errorf("%d fetches by %d offices for %d files and lists, want one each", got, len(w.offices), want)
	}
}

// givenUp is a log of the keys whose claims moved from a home peer that was silent, or
// whose fetcher lost it. Each may cost one more fetch.
type givenUp struct {
	mu   sync.Mutex // guards keys
	keys map[string]bool
}

func (*givenUp) Enabled(context.Context, slog.Level) bool { return true }
func (g *givenUp) WithAttrs([]slog.Attr) slog.Handler     { return g }
func (g *givenUp) WithGroup(string) slog.Handler          { return g }
func (g *givenUp) Handle(_ context.Context, r slog.Record) error {
	if r.Message != movedLog && r.Message != lostLog {
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "key" {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.keys[a.Value.String()] = true
		}
		return true
	})
	return nil
}

// BenchmarkHerd has 50 offices ask for all files of a project of 5 modules at once,
// and reports the requests to the upstream over those of one office; and of how many
// files and lists a home peer was given up because it was silent for leaseTimeout,
// which 50 offices on few cores are when others use them too. Each of those may be
// fetched once more.
func BenchmarkHerd(b *testing.B) {
	together, alone, moved := 0, 0, 0
	for b.Loop() {
		b.StopTimer()
		p := newProject(b, 5)
		log := &givenUp{keys: map[string]bool{}}
		one, all := newWorld(b, 1), newWorld(b, 50, func(_ int, c *Config) { c.Log = slog.New(log) })
		alone += herd(b, one, 1, p)
		b.StartTimer()
		together += herd(b, all, 50, p)
		b.StopTimer()
		for _, o := range append(one.offices, all.offices...) {
			o.stop()
		}
		moved += len(log.keys)
		b.StartTimer()
	}
	b.ReportMetric(float64(together)/float64(alone), "upstream/one-office")
	b.ReportMetric(float64(moved)/float64(alone), "homes-given-up/file")
}
