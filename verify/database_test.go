package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

func TestProveColdWarmAndRestarted(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 700)
	cache := newMemCache()
	d := log.open(t, cache, log)
	for i := range 20 {
		mustProve(t, d, mod(i))
	}
	_, size := d.Head()
	asked := log.requests()
	for i := range 20 {
		mustProve(t, d, mod(i))
	}
	offline := log.open(t, cache, down)
	for i := range 20 {
		mustProve(t, offline, mod(i))
	}
	if _, after := offline.Head(); after != size {
		t.Errorf("tree of %d after a restart, was %d", after, size)
	}
	if now := log.requests(); now != asked {
		t.Errorf("%d requests for what was known", now-asked)
	}
}

func TestFreshGoCommandChecksModulesOffline(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 70_000) // tiles on three levels
	cache := newMemCache()
	d := log.open(t, cache, log)
	var ms []module.Version
	for i := range 40 {
		mustProve(t, d, mod(i))
		ms = append(ms, mod(i))
		log.grow(t, 97) // so that tiles fill up after they were cached
	}
	offline := log.open(t, cache, down)
	goLookup(t, offline, ServeOptions{}, ms...)
	goLookup(t, offline, ServeOptions{CachedOnly: true}, ms...)
}

// What a fresh go command needs for the modules looked up so far is in the cache
// after any history of lookups, growth, refreshes and restarts.
func TestCacheIsClosedUnderGrowth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := newTestLog(t, testDB, "")
		log.grow(t, rapid.IntRange(0, 600).Draw(rt, "start"))
		cache := newMemCache()
		d := log.open(t, cache, log)
		var known []module.Version
		var size int64
		rt.Repeat(map[string]func(*rapid.T){
			"lookup": func(rt *rapid.T) {
				m := mod(rapid.IntRange(0, 30).Draw(rt, "module"))
				mustProve(t, d, m)
				known = append(known, m)
			},
			"grow":    func(rt *rapid.T) { log.grow(t, rapid.IntRange(1, 400).Draw(rt, "by")) },
			"refresh": func(rt *rapid.T) { must(0, d.Refresh(context.Background())) },
			"restart": func(*rapid.T) { d = log.open(t, cache, log) },
			"": func(rt *rapid.T) {
				if len(known) > 0 { // any few of them, in any order
					some := rapid.SliceOfN(rapid.SampledFrom(known), 1, 3).Draw(rt, "checked")
					goLookup(t, log.open(t, cache), ServeOptions{CachedOnly: true}, some...)
				}
				if _, n := d.Head(); n < size {
					rt.Fatalf("tree of %d after one of %d", n, size)
				} else {
					size = n
				}
			},
		})
	})
}

func TestManyLookupsAtOnce(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 3000)
	for i := range 400 { // known before, so that the tree stands still
		if _, err := log.server.Lookup(context.Background(), mod(i)); err != nil {
			t.Fatal(err)
		}
	}
	d := log.open(t, newMemCache(), log)
	proveAll(t, d, 400, 3)
	log.mu.Lock()
	defer log.mu.Unlock()
	for path, n := range log.asked {
		if n != 1 {
			t.Errorf("%s was asked for %d times, want once", path, n)
		}
	}
	if s := d.Stats(); s.Lookups != 400 || s.Tiles > 20 {
		t.Errorf("%+v: want 400 lookups and few tiles", s)
	}
}

func TestManyLookupsInGrowingTree(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 1000)
	d := log.open(t, newMemCache(), log)
	proveAll(t, d, 200, 2) // each lookup adds a record, so each has a head of its own
	if s := d.Stats(); s.Lookups != 200 || s.Failures != 0 {
		t.Errorf("%+v: want 200 lookups and no failure", s)
	}
}

// proveAll looks n modules up, each by several callers, all at once.
func proveAll(t *testing.T, d *Database, n, callers int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n * callers {
		wg.Go(func() {
			p, err := d.Prove(context.Background(), mod(i%n))
			if err != nil {
				t.Error(err)
				return
			}
			checkTruth(t, d, mod(i%n), p)
		})
	}
	wg.Wait()
}

func TestUnknownModuleIsNotFound(t *testing.T) {
	log := newTestLog(t, testDB, "")
	d := log.open(t, newMemCache(), log)
	_, err := d.Prove(context.Background(), module.Version{Path: "elsewhere.test/x", Version: "v1.0.0"})
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want not found and no outage", err)
	}
}

func TestOutageIsNotNotFoundAndNotSticky(t *testing.T) {
	log := newTestLog(t, testDB, "")
	var up atomic.Bool
	d := log.open(t, newMemCache(), remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
		if !up.Load() {
			return nil, errDown
		}
		return log.ReadRemote(ctx, path)
	}))
	_, err := d.Prove(context.Background(), mod(1))
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, errDown) || errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want an outage that names its cause", err)
	}
	up.Store(true)
	mustProve(t, d, mod(1))
}

func TestFailureInTheMiddleIsNotSticky(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 1000)
	d := log.open(t, newMemCache(), lossy(log))
	for i := range 20 {
		for try := 0; ; try++ {
			if _, err := d.Prove(context.Background(), mod(i)); err == nil {
				break
			} else if try == 1000 {
				t.Fatalf("%s: still %v", mod(i), err)
			}
		}
		mustProve(t, d, mod(i))
	}
}

// lossy loses a quarter of the answers, after the requests took effect.
func lossy(r DBRemote) DBRemote {
	return remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
		body, err := r.ReadRemote(ctx, path)
		if rand.IntN(4) == 0 {
			return nil, errDown
		}
		return body, err
	})
}

func TestServeAnswersWhatTheDatabaseAnswers(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 1000)
	d := log.open(t, newMemCache(), log)
	mustProve(t, d, mod(1))
	for name, path := range map[string]string{
		"latest": "latest", "lookup": "lookup/example.test/!some/mod1@v1.2.3",
		"full tile": "tile/8/0/001", "upper tile": "tile/8/1/000.p/3",
		"partial tile": "tile/8/0/003.p/100", "narrow tile": "tile/8/0/001.p/7",
		"data tile": "tile/8/data/002", "partial data tile": "tile/8/data/003.p/9",
	} {
		t.Run(name, func(t *testing.T) {
			for _, again := range []string{"first", "again"} {
				got, err := d.Serve(context.Background(), path, ServeOptions{})
				if err != nil {
					t.Fatal(again, err)
				}
				want, err := log.ReadRemote(context.Background(), "/"+path)
				if err != nil {
					t.Fatal(err)
				}
				if string(got) != string(want) {
					t.Errorf("%s: got %q, want %q", again, got, want)
				}
			}
		})
	}
	if body, err := d.Serve(context.Background(), "supported", ServeOptions{}); err != nil || len(body) != 0 {
		t.Errorf("supported: %q, %v", body, err)
	}
}

func TestServeRefuses(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 300)
	d := log.open(t, newMemCache(), log)
	for name, c := range map[string]struct {
		path   string
		cached bool
		want   error
	}{
		"tile beyond the tree":        {path: "tile/8/0/009", want: fs.ErrNotExist},
		"full tile that is partial":   {path: "tile/8/0/001", want: fs.ErrNotExist},
		"level beyond the tree":       {path: "tile/8/5/000.p/1", want: fs.ErrNotExist},
		"level beyond all trees":      {path: "tile/8/60/000.p/1", want: fs.ErrNotExist},
		"number beyond all trees":     {path: "tile/8/0/x009/x007/x199/x254/x740/x992.p/1", want: fs.ErrInvalid},
		"number that overflows":       {path: "tile/8/0/x036/x028/x797/x018/x963/968.p/1", want: fs.ErrNotExist},
		"another height":              {path: "tile/30/0/000.p/1", want: fs.ErrNotExist},
		"no such endpoint":            {path: "steal", want: fs.ErrNotExist},
		"unknown module":              {path: "lookup/elsewhere.test/x@v1.0.0", want: fs.ErrNotExist},
		"malformed tile":              {path: "tile/8/0/1", want: fs.ErrInvalid},
		"lookup without a version":    {path: "lookup/example.test/x", want: fs.ErrInvalid},
		"lookup of no canonical":      {path: "lookup/example.test/x@v1", want: fs.ErrInvalid},
		"lookup with a capital":       {path: "lookup/example.test/X@v1.0.0", want: fs.ErrInvalid},
		"lookup that climbs":          {path: "lookup/../latest@v1.0.0", want: fs.ErrInvalid},
		"cached lookup never made":    {path: "lookup/example.test/x@v1.0.0", cached: true, want: ErrNotCached},
		"cached tile never read":      {path: "tile/8/0/000", cached: true, want: ErrNotCached},
		"cached data tile never read": {path: "tile/8/data/000", cached: true, want: ErrNotCached},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := d.Serve(context.Background(), c.path, ServeOptions{CachedOnly: c.cached})
			if !errors.Is(err, c.want) || body != nil {
				t.Errorf("got %q, %v, want %v", body, err, c.want)
			}
		})
	}
	if s := d.Stats(); s.Rejected != 0 {
		t.Errorf("%d answers of an honest database were rejected", s.Rejected)
	}
}

func TestPartialTileThatIsGone(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 300)
	if _, err := log.server.Lookup(context.Background(), mod(1)); err != nil {
		t.Fatal(err)
	}
	old, err := log.ReadRemote(context.Background(), "/lookup/example.test/!some/mod1@v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	log.grow(t, 300)
	d := log.open(t, newMemCache(), remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
		if strings.HasPrefix(path, "/lookup/") {
			return old, nil // an answer that was kept somewhere on the way
		}
		if strings.HasPrefix(path, "/tile/8/0/001.p/") {
			return nil, fs.ErrNotExist
		}
		return log.ReadRemote(ctx, path)
	}))
	mustProve(t, d, mod(1))
}

func TestDamagedCacheHeals(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 1000)
	for name, damage := range map[string]func([]byte) []byte{
		"flipped":   func(v []byte) []byte { v = append([]byte(nil), v...); v[len(v)/2] ^= 1; return v },
		"truncated": func(v []byte) []byte { return v[:len(v)/2] },
		"empty":     func([]byte) []byte { return []byte{} },
		"lost":      func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			cache := newMemCache()
			mustProve(t, log.open(t, cache, log), mod(1))
			cache.edit(func(key string, v []byte) []byte {
				if strings.HasSuffix(key, headKey) {
					return v
				}
				return damage(v)
			})
			d := log.open(t, cache, log)
			mustProve(t, d, mod(1))
			mustProve(t, d, mod(2))
			offline := log.open(t, cache)
			goLookup(t, offline, ServeOptions{CachedOnly: true}, mod(1), mod(2))
		})
	}
}

func TestDamagedHeadIsNoFreshStart(t *testing.T) {
	log := newTestLog(t, testDB, "")
	cut := func(v []byte) []byte { return v[:len(v)-5] }
	for name, c := range map[string]struct {
		damage map[string]func([]byte) []byte // nil: it is gone
		starts bool
	}{
		"the copy is used":              {map[string]func([]byte) []byte{headKey: cut}, true},
		"the copy is used if it is all": {map[string]func([]byte) []byte{headKey: nil}, true},
		"the copy is damaged":           {map[string]func([]byte) []byte{copyKey: cut}, true},
		"both are damaged":              {map[string]func([]byte) []byte{headKey: cut, copyKey: cut}, false},
		"damaged, and no copy":          {map[string]func([]byte) []byte{headKey: cut, copyKey: nil}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cache := newMemCache()
			d := log.open(t, cache, log)
			mustProve(t, d, mod(1))
			want, _ := d.Head()
			cache.edit(func(k string, v []byte) []byte {
				damage, hit := c.damage[strings.TrimPrefix(k, d.prefix)]
				switch {
				case !hit:
					return v
				case damage == nil:
					return nil
				}
				return damage(v)
			})
			again, err := NewDatabase(DatabaseOptions{Spec: log.spec(), Cache: cache})
			if (err == nil) != c.starts {
				t.Fatalf("error %v, want a start: %v", err, c.starts)
			}
			if err != nil {
				return
			}
			if got, _ := again.Head(); !bytes.Equal(got, want) {
				t.Error("another tree head than before")
			}
		})
	}
}

func TestHeadThatCannotBeStoredIsNotUsed(t *testing.T) {
	log := newTestLog(t, testDB, "")
	cache := newMemCache()
	cache.fail = errors.New("disk full")
	d := log.open(t, cache, log)
	if _, err := d.Prove(context.Background(), mod(1)); !errors.Is(err, cache.fail) {
		t.Errorf("got %v, want %v", err, cache.fail)
	}
	if head, _ := d.Head(); head != nil {
		t.Error("the head is used, and a restart would forget it")
	}
	cache.fail = nil
	mustProve(t, d, mod(1))
}

func TestKeysSeparateDatabases(t *testing.T) {
	one, two := newTestLog(t, testDB, ""), newTestLog(t, testDB, "")
	cache := newMemCache()
	mustProve(t, one.open(t, cache, one), mod(1))
	d := two.open(t, cache, two)
	if _, err := d.Known(mod(1)); !errors.Is(err, ErrNotCached) {
		t.Errorf("got %v: a proof under another key is no proof", err)
	}
	mustProve(t, d, mod(1))
}

func TestEmptyDatabase(t *testing.T) {
	log := newTestLog(t, testDB, "")
	d := log.open(t, newMemCache(), log)
	if err := d.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	head, err := d.Serve(context.Background(), "latest", ServeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := openHead(head, d.Verifier()); err != nil || h.tree.N != 0 {
		t.Errorf("got %+v, %v", h, err)
	}
	mustProve(t, d, mod(1)) // a tree of one record, whose proof is empty
	goLookup(t, log.open(t, d.cache), ServeOptions{CachedOnly: true}, mod(1))
}

func TestBodyLimits(t *testing.T) {
	for path, want := range map[string]int64{
		"/tile/8/0/000": 256 * tlog.HashSize, "/tile/8/data/000": maxDataTile, "/latest": maxTreeHead,
		"/lookup/example.test/x@v1.0.0": maxTreeHead + maxSumText + 32, "/tile/nonsense": maxDataTile,
	} {
		if got := BodyLimit(path); got != want {
			t.Errorf("BodyLimit(%s) = %d, want %d", path, got, want)
		}
	}
}

func ExampleParseSpec() {
	_, err := ParseSpec("sums.example.test")
	fmt.Println(err)
	// Output: checksum database "sums.example.test": its key is not known here; give NAME+HASH+KEY
}
