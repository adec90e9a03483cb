package verify

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// altered is a source that answers as l does, after f had its way with it.
func altered(l *testLog, f func(path string, body []byte) []byte) DBRemote {
	return remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
		body, err := l.ReadRemote(ctx, path)
		if err != nil {
			return nil, err
		}
		return f(path, body), nil
	})
}

// onTiles lets f have its way with tiles alone, onLookups with lookups alone.
func onTiles(l *testLog, f func([]byte) []byte) DBRemote  { return only(l, "/tile/", f) }
func onLookup(l *testLog, f func([]byte) []byte) DBRemote { return only(l, "/lookup/", f) }

func only(l *testLog, prefix string, f func([]byte) []byte) DBRemote {
	return altered(l, func(path string, body []byte) []byte {
		if strings.HasPrefix(path, prefix) {
			return f(body)
		}
		return body
	})
}

// liars are databases, or those on the way to one, each with one bad habit.
func liars(t *testing.T, l *testLog) map[string]DBRemote {
	resign := func(skey string) func([]byte) []byte { // the record stays, the head is signed anew
		return func(body []byte) []byte {
			id, text, head, err := tlog.ParseRecord(body)
			if err != nil {
				t.Error(err)
			}
			tree, _, _ := bytes.Cut(head, []byte("\n\n"))
			signed, err := note.Sign(&note.Note{Text: string(tree) + "\n"}, must(note.NewSigner(skey)))
			if err != nil {
				t.Error(err)
			}
			return append(must(tlog.FormatRecord(id, text)), signed...)
		}
	}
	other := newTestLog(t, l.name, "")
	stranger := newTestLog(t, "elsewhere.example.test", "")
	renumber := func(id int64) func([]byte) []byte {
		return func(body []byte) []byte {
			_, text, head, err := tlog.ParseRecord(body)
			if err != nil {
				t.Error(err)
			}
			return append(must(tlog.FormatRecord(id, text)), head...)
		}
	}
	return map[string]DBRemote{
		"tile with a flipped bit":     onTiles(l, func(b []byte) []byte { b[17] ^= 1; return b }),
		"truncated tile":              onTiles(l, func(b []byte) []byte { return b[:len(b)-1] }),
		"tile that is too long":       onTiles(l, func(b []byte) []byte { return append(b, 0) }),
		"empty tile":                  onTiles(l, func([]byte) []byte { return nil }),
		"tile of zeros":               onTiles(l, func(b []byte) []byte { return make([]byte, len(b)) }),
		"huge tile":                   onTiles(l, func([]byte) []byte { return make([]byte, 64<<20) }),
		"no tiles":                    remoteFunc(func(ctx context.Context, p string) ([]byte, error) { return noTiles(ctx, l, p) }),
		"lookup of another module":    remoteFunc(func(ctx context.Context, p string) ([]byte, error) { return otherModule(ctx, l, p) }),
		"record with another hash":    onLookup(l, func(b []byte) []byte { return bytes.Replace(b, []byte("h1:"), []byte("h1:A"), 1) }),
		"record with an added line":   onLookup(l, func(b []byte) []byte { return bytes.Replace(b, []byte("\n\n"), []byte("\nx\n\n"), 1) }),
		"number of another record":    onLookup(l, renumber(3)),
		"number beyond the tree":      onLookup(l, renumber(1<<40)),
		"negative number":             onLookup(l, renumber(-1)),
		"head signed by another key":  onLookup(l, resign(other.skey)),
		"head signed by another name": onLookup(l, resign(stranger.skey)),
		"head without a signature":    onLookup(l, func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("\n\n"))+2] }),
		"no head":                     onLookup(l, func(b []byte) []byte { return b[:bytes.Index(b, []byte("\n\n"))+2] }),
		"huge lookup":                 onLookup(l, func([]byte) []byte { return bytes.Repeat([]byte("x"), 64<<20) }),
		"empty lookup":                onLookup(l, func([]byte) []byte { return nil }),
		"login page":                  onLookup(l, func([]byte) []byte { return []byte("<html>Please log in</html>\n") }),
		"lookup that is not text":     onLookup(l, func(b []byte) []byte { return append(b, 0xff) }),
	}
}

func noTiles(ctx context.Context, l *testLog, path string) ([]byte, error) {
	if strings.HasPrefix(path, "/tile/") {
		return nil, fs.ErrNotExist
	}
	return l.ReadRemote(ctx, path)
}

func otherModule(ctx context.Context, l *testLog, path string) ([]byte, error) {
	if strings.HasPrefix(path, "/lookup/") {
		path = "/lookup/example.test/decoy@v1.0.0"
	}
	return l.ReadRemote(ctx, path)
}

func TestLiarAloneIsNotBelieved(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 700)
	for name, liar := range liars(t, log) {
		t.Run(name, func(t *testing.T) {
			cache := newMemCache()
			d := log.open(t, cache, liar)
			_, err := d.Prove(context.Background(), mod(1))
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %v, want a refusal that is no answer about the module", err)
			}
			if d.Stats().Rejected != 1 {
				t.Errorf("%+v: want one rejected answer", d.Stats())
			}
			checkCache(t, log, cache)
			if _, err := d.Known(mod(1)); err == nil {
				t.Error("the lie is in the cache")
			}
		})
	}
}

func TestHonestSourceOutweighsLiar(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 700)
	for name, liar := range liars(t, log) {
		t.Run(name, func(t *testing.T) {
			cache := newMemCache()
			var mu sync.Mutex
			blamed := make(map[string]bool)
			d, err := NewDatabase(DatabaseOptions{Spec: log.spec(), Cache: cache, Hedge: time.Hour,
				Sources: []Source{{"liar", liar}, {"broken", down}, {"honest", log}},
				OnReject: func(source string, err error) {
					mu.Lock()
					defer mu.Unlock()
					blamed[source] = true
				}})
			if err != nil {
				t.Fatal(err)
			}
			proveAll(t, d, 8, 2)
			checkCache(t, log, cache)
			if !blamed["liar"] || len(blamed) != 1 {
				t.Errorf("blamed %v, want the liar", blamed)
			}
		})
	}
}

func TestServedDataTileIsChecked(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 700)
	for name, f := range map[string]func([]byte) []byte{
		"another hash":    func(b []byte) []byte { return bytes.Replace(b, []byte("h1:"), []byte("h1:x"), 1) },
		"record missing":  func(b []byte) []byte { return b[bytes.Index(b, []byte("\n\n"))+2:] },
		"record too many": func(b []byte) []byte { return append(b, "example.test/x v1.0.0 h1:x\n\n"...) },
		"huge":            func([]byte) []byte { return make([]byte, maxDataTile+1) },
		"nothing":         func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			cache := newMemCache()
			d := log.open(t, cache, only(log, "/tile/8/data/", f))
			if body, err := d.Serve(context.Background(), "tile/8/data/001", ServeOptions{}); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %q, %v", body, err)
			}
			checkCache(t, log, cache)
			d = log.open(t, cache, only(log, "/tile/8/data/", f), log)
			if _, err := d.Serve(context.Background(), "tile/8/data/001", ServeOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := d.Serve(context.Background(), "tile/8/data/001", ServeOptions{CachedOnly: true}); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkCache checks that everything in the cache is the truth.
func checkCache(t *testing.T, l *testLog, c *memCache) {
	t.Helper()
	v := l.verifier(t)
	c.edit(func(key string, value []byte) []byte {
		_, path, _ := strings.Cut(key, "/")
		kind, _, _ := strings.Cut(path, "/")
		var err error
		switch kind {
		case headKey, copyKey:
			_, err = openHead(value, v)
		case "forks":
			var forks []Fork
			err = decodeExact(decMode, value, &forks)
			for _, f := range forks {
				err = errors.Join(err, f.Check(v))
			}
		case "proof":
			p := new(Proof)
			if err = decodeExact(decMode, value, p); err == nil {
				err = p.Check(v)
			}
		case "tile":
			var tile tlog.Tile
			if tile, err = tlog.ParseTilePath(path); err == nil {
				tile.W = len(value) / tlog.HashSize
				var truth []byte
				if truth, err = l.server.ReadTileData(context.Background(), tile); err == nil && !bytes.Equal(value, truth) {
					err = errors.New("not the database's tile")
				}
			}
		default:
			err = errors.New("unknown key")
		}
		if err != nil {
			t.Errorf("cache has %s: %v", key, err)
		}
		return value
	})
}

func TestStallingSourceGivesWay(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 300)
	stall := remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	synctest.Test(t, func(t *testing.T) {
		d := log.open(t, newMemCache(), stall, log)
		mustProve(t, d, mod(1))
		if s := d.Stats(); s.Failures != 1 {
			t.Errorf("%+v: want one failure", s)
		}
		mustProve(t, d, mod(2)) // now the stalling source is asked last
		if s := d.Stats(); s.Failures != 1 {
			t.Errorf("%+v: the source that stalls was asked first again", s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		d := log.open(t, newMemCache(), stall)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { _, err := d.Prove(ctx, mod(1)); done <- err }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}) // the bubble ends only if nothing is left running
}

func TestCallerThatGivesUpLeavesTheWorkToOthers(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 300)
	gate := make(chan struct{})
	entered := make(chan struct{}, 100)
	d := log.open(t, newMemCache(), remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
		entered <- struct{}{}
		select {
		case <-gate:
			return log.ReadRemote(ctx, path)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}))
	first, cancel := context.WithCancel(context.Background())
	gone := make(chan error)
	go func() { _, err := d.Prove(first, mod(1)); gone <- err }()
	<-entered
	stayed := make(chan error)
	key := must(lookupKey(mod(1)))
	go func() { _, err := d.Prove(context.Background(), mod(1)); stayed <- err }()
	for users := 0; users < 2; { // until the second caller takes part
		d.lookups.mu.Lock()
		users = d.lookups.m[key].users
		d.lookups.mu.Unlock()
		runtime.Gosched()
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller got %v", err)
	}
	close(gate)
	if err := <-stayed; err != nil {
		t.Errorf("the second caller got %v", err)
	}
	if n := d.Stats().Lookups; n != 1 {
		t.Errorf("%d lookups, want 1", n)
	}
}

func TestForkIsRefusedKeptAndShown(t *testing.T) {
	for name, sizes := range map[string]struct{ honest, forked int }{
		"longer":           {300, 900},
		"shorter":          {900, 300},
		"of the same size": {500, 500},
		"from one record":  {1, 400},
	} {
		t.Run(name, func(t *testing.T) {
			log := newTestLog(t, testDB, "")
			fork := log.fork()
			log.grow(t, sizes.honest-1)
			fork.grow(t, sizes.forked-1)
			cache := newMemCache()
			mustProve(t, log.open(t, cache, log), mod(1))
			d := log.open(t, cache, fork)
			before, _ := d.Head()
			if _, err := d.Prove(context.Background(), mod(2)); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v, want a refusal", err)
			}
			if after, _ := d.Head(); !bytes.Equal(before, after) {
				t.Error("the fork moved the timeline")
			}
			checkCache(t, log, cache)

			var heard int
			d, err := NewDatabase(DatabaseOptions{Spec: log.spec(), Cache: cache, Hedge: time.Hour,
				Sources: []Source{{"forked", fork}, {"honest", log}}, OnFork: func(Fork) { heard++ }})
			if err != nil {
				t.Fatal(err)
			}
			mustProve(t, d, mod(3))
			checkCache(t, log, cache)
			checkForks(t, log, log.open(t, cache).Forks())
			if heard == 0 {
				t.Error("nobody was told")
			}
		})
	}
}

func checkForks(t *testing.T, l *testLog, forks []Fork) {
	t.Helper()
	if len(forks) == 0 {
		t.Error("the evidence is lost")
	}
	for _, f := range forks {
		if err := f.Check(l.verifier(t)); err != nil {
			t.Error(err)
		}
		if err := f.Check(newTestLog(t, testDB, "").verifier(t)); err == nil {
			t.Error("the evidence convinces under another key")
		}
		if !strings.Contains(f.Report(), "go.sum database tree") {
			t.Errorf("report without the tree heads: %s", f.Report())
		}
	}
}

func TestNoForkIsNoEvidence(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 300)
	d := log.open(t, newMemCache(), log)
	mustProve(t, d, mod(1))
	older := d.latest()
	log.grow(t, 300)
	mustProve(t, d, mod(2))
	r := d.reader(context.Background(), nil, d.latest().tree)
	f, err := newFork(older, d.latest(), older.tree.Hash, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Check(log.verifier(t)); err == nil {
		t.Error("an honest database is accused")
	}
}

func TestForksAreBounded(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 10)
	cache := newMemCache()
	d := log.open(t, cache, log)
	mustProve(t, d, mod(1))
	fork := log.fork()
	for range 2 * maxForks {
		fork.grow(t, 1)
		if err := d.Observe(context.Background(), must(fork.server.Signed(context.Background()))); !errors.Is(err, ErrSecurity) && !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if n := len(d.Forks()); n == 0 || n > maxForks {
		t.Errorf("%d forks kept", n)
	}
	if n := len(log.open(t, cache).Forks()); n != len(d.Forks()) {
		t.Errorf("%d forks after a restart", n)
	}
}

func TestOldHeadsDoNotRollBack(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 300)
	for i := range 5 {
		if _, err := log.server.Lookup(context.Background(), mod(i)); err != nil {
			t.Fatal(err)
		}
	}
	old := must(log.server.Signed(context.Background()))
	log.grow(t, 2000)
	cache := newMemCache()
	d := log.open(t, cache, log)
	if err := d.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, size := d.Head()
	stale := altered(log, func(path string, body []byte) []byte {
		switch {
		case path == "/latest":
			return old
		case strings.HasPrefix(path, "/lookup/"):
			id, text, _, _ := tlog.ParseRecord(body)
			return append(must(tlog.FormatRecord(id, text)), old...)
		}
		return body
	})
	d = log.open(t, cache, stale)
	for i := range 5 {
		mustProve(t, d, mod(i))
	}
	if err := d.Refresh(context.Background()); err != nil {
		t.Error(err)
	}
	if _, n := d.Head(); n != size {
		t.Errorf("tree of %d after one of %d", n, size)
	}
	goLookup(t, d, ServeOptions{}, mod(0), mod(4))
}

func TestObserveFindsSplitView(t *testing.T) {
	log := newTestLog(t, testDB, "")
	fork := log.fork()
	log.grow(t, 300)
	fork.grow(t, 500)
	here := log.open(t, newMemCache(), log)
	mustProve(t, here, mod(1))
	there := fork.open(t, newMemCache(), fork)
	if _, err := there.Prove(context.Background(), mod(1)); err != nil {
		t.Fatal(err)
	}
	mine, _ := here.Head()
	theirs, _ := there.Head()
	if err := there.Observe(context.Background(), mine); !errors.Is(err, ErrSecurity) {
		t.Errorf("got %v, want the fork to be found", err)
	}
	// The greater tree's tiles are only where the fork is served.
	here = log.open(t, here.cache, log, fork)
	if err := here.Observe(context.Background(), theirs); !errors.Is(err, ErrSecurity) {
		t.Errorf("got %v, want the fork to be found", err)
	}
	if err := here.Observe(context.Background(), []byte("nonsense")); !errors.Is(err, ErrProof) {
		t.Errorf("got %v, want %v", err, ErrProof)
	}
}

// An office that was shown another's head before an outage can follow it in the
// outage with nothing but the other's cache.
func TestOfficesFollowEachOtherOffline(t *testing.T) {
	log := newTestLog(t, testDB, "")
	log.grow(t, 1000)
	one, two := newMemCache(), newMemCache()
	a, b := log.open(t, one, log), log.open(t, two, log)
	mustProve(t, a, mod(1))
	log.grow(t, 600)
	mustProve(t, b, mod(2))
	mine, _ := a.Head()
	if err := b.Observe(context.Background(), mine); err != nil {
		t.Fatal(err)
	}
	log.grow(t, 900)
	mustProve(t, b, mod(3))

	peer := remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
		return b.Serve(ctx, path[1:], ServeOptions{CachedOnly: true})
	})
	a = log.open(t, one, down, peer)
	goLookup(t, a, ServeOptions{}, mod(1), mod(2), mod(3))
	if _, err := a.Prove(context.Background(), mod(9)); !errors.Is(err, ErrUnavailable) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v: what the peer lacks is an outage, not an answer", err)
	}
}
