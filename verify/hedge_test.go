package verify

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// silent never answers, and counts who gave up on it.
type silent struct{ asked, ended atomic.Int32 }

func (s *silent) ReadRemote(ctx context.Context, _ string) ([]byte, error) {
	s.asked.Add(1)
	<-ctx.Done()
	s.ended.Add(1)
	return nil, ctx.Err()
}

// hedged returns a client that asks the next source beside one that takes its time.
func hedged(t *testing.T, log *testLog, remotes ...DBRemote) *Database {
	t.Helper()
	d := log.open(t, newMemCache(), remotes...)
	d.hedge = time.Second
	return d
}

// tallied counts what a remote is asked.
type tallied struct {
	DBRemote
	asked atomic.Int32
}

func (c *tallied) ReadRemote(ctx context.Context, path string) ([]byte, error) {
	c.asked.Add(1)
	return c.DBRemote.ReadRemote(ctx, path)
}

func TestSilentSourceCostsNoTimeout(t *testing.T) {
	log := newTestLog(t, testDB, "")
	synctest.Test(t, func(t *testing.T) {
		var hung silent
		d := hedged(t, log, &hung, log)
		start := time.Now() // of the bubble's clock
		mustProve(t, d, mod(1))
		if took := time.Since(start); took != d.hedge {
			t.Errorf("the first lookup took %v, want %v", took, d.hedge)
		}
		if hung.asked.Load() == 0 || hung.ended.Load() != hung.asked.Load() {
			t.Errorf("asked %d times, given up %d times", hung.asked.Load(), hung.ended.Load())
		}
		start, asked := time.Now(), hung.asked.Load()
		mustProve(t, d, mod(2))
		if took := time.Since(start); took != 0 || hung.asked.Load() != asked {
			t.Errorf("the next lookup took %v, and asked %d times who had been silent", took, hung.asked.Load()-asked)
		}
	})
}

func TestSourceThatAnswersIsAskedAlone(t *testing.T) {
	log := newTestLog(t, testDB, "")
	synctest.Test(t, func(t *testing.T) {
		slow := remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
			time.Sleep(100 * time.Millisecond)
			return log.ReadRemote(ctx, path)
		})
		first, second := &tallied{DBRemote: slow}, &tallied{DBRemote: log}
		d := hedged(t, log, first, second)
		for i := range 5 {
			mustProve(t, d, mod(i))
		}
		if s := d.Stats(); s.Lookups != 5 || s.Failures != 0 || first.asked.Load() == 0 || second.asked.Load() != 0 {
			t.Errorf("%+v; first source asked %d times, second %d: want 5 lookups of the first", s, first.asked.Load(), second.asked.Load())
		}
	})
}

func TestSlowSourceStillWinsAgainstBadOnes(t *testing.T) {
	log, other := newTestLog(t, testDB, ""), newTestLog(t, testDB, "another key ")
	synctest.Test(t, func(t *testing.T) {
		slow := remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
			select {
			case <-time.After(2 * time.Second):
				return log.ReadRemote(ctx, path)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		d := hedged(t, log, slow, other, down)
		mustProve(t, d, mod(1))
		if s := d.Stats(); s.Rejected != 1 {
			t.Errorf("%+v: want one answer that did not check", s)
		}
	})
}

func TestAllSourcesSilent(t *testing.T) {
	log := newTestLog(t, testDB, "")
	synctest.Test(t, func(t *testing.T) {
		var a, b silent
		d := hedged(t, log, &a, &b)
		start := time.Now()
		if _, err := d.Prove(t.Context(), mod(1)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		if took := time.Since(start); took != d.timeout+d.hedge {
			t.Errorf("took %v, want the timeout of the second: %v", took, d.timeout+d.hedge)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if _, err := d.Prove(ctx, mod(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the caller's deadline", err)
		}
		synctest.Wait()
		if a.ended.Load() != a.asked.Load() || b.ended.Load() != b.asked.Load() {
			t.Error("questions go on after nobody waits for them")
		}
	})
}

func TestErrorNamesCachesOnlyIfNothingElse(t *testing.T) {
	log := newTestLog(t, testDB, "")
	lacks := remoteFunc(func(context.Context, string) ([]byte, error) { return nil, ErrNotCached })
	for _, c := range []struct {
		name    string
		remotes []DBRemote
		want    string
	}{
		{"an outage and caches", []DBRemote{down, lacks, lacks}, "source0: read /lookup/example.test/!some/mod1@v1.2.3: connection refused"},
		{"caches alone", []DBRemote{lacks, lacks}, "source0: read /lookup/example.test/!some/mod1@v1.2.3: not in the cache"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := log.open(t, newMemCache(), c.remotes...)
			_, err := d.Prove(t.Context(), mod(1))
			if want := ErrUnavailable.Error() + ": " + testDB + ": " + c.want; err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%v is not ErrUnavailable", err)
			}
		})
	}
}

// swallower answers lookups, and never a tile.
type swallower struct {
	DBRemote
	silent
}

func (s *swallower) ReadRemote(ctx context.Context, path string) ([]byte, error) {
	if strings.HasPrefix(path, "/tile/") {
		return s.silent.ReadRemote(ctx, path)
	}
	return s.DBRemote.ReadRemote(ctx, path)
}

func TestSourceThatSwallowsTilesCostsNoTimeout(t *testing.T) {
	log := newTestLog(t, testDB, "")
	synctest.Test(t, func(t *testing.T) {
		hung := &swallower{DBRemote: log}
		d := hedged(t, log, hung, log)
		for i := range 3 { // each time the tree has grown, and its new tiles are needed
			log.grow(t, 300)
			start := time.Now()
			mustProve(t, d, mod(i))
			if took, most := time.Since(start), 2*d.hedge; took > most {
				t.Errorf("lookup %d took %v, want at most %v", i, took, most)
			}
			d.sources[0].coolUntil.Store(0) // as if it had not been asked for long
		}
		synctest.Wait()
		if hung.asked.Load() == 0 || hung.ended.Load() != hung.asked.Load() {
			t.Errorf("asked for %d tiles, given up %d times", hung.asked.Load(), hung.ended.Load())
		}
	})
}
