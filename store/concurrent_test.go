package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// TestConcurrentAdmission: many admit the same release, and releases that share
// files, while others read, drop and collect.
func TestConcurrentAdmission(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), tinyOptions())
	const modules, admitters = 6, 4
	shared := []testFile{{"LICENSE", noise(5000)}, {"large", noise(2 << 20)}}
	scanned := make([]*Scanned, modules)
	for i := range scanned {
		m := module.Version{Path: "example.test/m", Version: fmt.Sprintf("v1.%d.0", i)}
		data := makeZip(t, m, append(shared, testFile{"own", noise(1000)})...)
		var err error
		if scanned[i], err = ScanZip(ctx, bytes.NewReader(data), int64(len(data)), m); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for _, z := range scanned {
		rec := zipRecord(t, z.Module, z.Root, z.Size)
		for range admitters {
			wg.Go(func() {
				st, err := s.StageZip(ctx, z)
				if err != nil {
					t.Error(err)
					return
				}
				defer st.Close()
				if err := s.Commit(ctx, rec, st); err != nil {
					t.Error(err)
					return
				}
				f, err := s.OpenZip(z.Root)
				if err != nil {
					t.Error(err) // nobody may drop it while it is staged
					return
				}
				defer f.Close()
				if n, err := io.Copy(io.Discard, f); err != nil || n != f.Size() {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		wg.Go(func() {
			if err := s.Drop(ctx, z.Root); err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if _, err := s.GC(ctx, GCOptions{}); err != nil {
			t.Error(err)
		}
		if err := s.reclaim(ctx); err != nil { // GC would not find it worth it
			t.Error(err)
		}
	})
	wg.Wait()
	checkStore(t, s)
}

// TestConcurrentConflict: of different records for one name exactly one is kept,
// and all others are told which.
func TestConcurrentConflict(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	const n = 8
	var mu sync.Mutex
	var kept []*verify.Signed
	told := make(map[verify.Digest]int)
	var wg sync.WaitGroup
	for i := range n {
		rec := modRecord(t, m1, fmt.Sprintf("// %d\n", i))
		wg.Go(func() {
			err := s.Commit(ctx, rec, nil)
			mu.Lock()
			defer mu.Unlock()
			var conflict *ConflictError
			switch {
			case err == nil:
				kept = append(kept, rec)
			case errors.As(err, &conflict):
				told[conflict.Have.Record.Digest]++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(kept) != 1 || told[kept[0].Record.Digest] != n-1 {
		t.Fatalf("%d kept, told %v", len(kept), told)
	}
	if list, err := s.Conflicts(); err != nil || len(list) != n-1 {
		t.Fatalf("%d pieces of evidence, %v", len(list), err)
	}
	checkStore(t, s)
}

// TestSeenBeforeItIsSafe: who asks for that hears of a commit when it can be read,
// while the disk is still at work; Commit itself waits for the disk.
func TestSeenBeforeItIsSafe(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	z, st := stageZip(t, s, m1, makeZip(t, m1, testFile{"a", []byte("a")}))
	defer st.Close()
	disk := &write{done: make(chan error)} // the syncer cannot go on before this is taken
	s.syncs <- disk
	seen, returned := make(chan struct{}), make(chan error, 1)
	go func() {
		returned <- s.CommitSeen(ctx, zipRecord(t, m1, z.Root, z.Size), st, func() { close(seen) })
	}()
	<-seen
	readZip(t, s, z.Root)
	select {
	case err := <-returned:
		t.Errorf("the commit was acknowledged before it was synced: %v", err)
	default:
	}
	if err := <-disk.done; err != nil {
		t.Error(err)
	}
	if err := <-returned; err != nil {
		t.Error(err)
	}
	again := sealRecord(t, m1, verify.Zip, verify.DigestOf([]byte("other")), nil, 1)
	err := s.CommitSeen(ctx, again, nil, func() { t.Error("a conflict was seen as committed") })
	if !errors.Is(err, ErrConflict) {
		t.Errorf("another zip for the name: %v", err)
	}
}

// TestContextEndsWaits: a caller that goes away does not wait.
func TestContextEndsWaits(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Commit(ctx, modRecord(t, m1, ""), nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	data := makeZip(t, m1, testFile{"a", []byte("a")})
	z, err := ScanZip(context.Background(), bytes.NewReader(data), int64(len(data)), m1)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := s.StageZip(ctx, z); err == nil {
		st.Close()
	} else if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	checkStore(t, s)
}

// TestAbandonedCalls: callers go away in the middle of staging and committing. What
// they asked for is done whole or not at all, and no reference is left or lost.
func TestAbandonedCalls(t *testing.T) {
	s := openTest(t, t.TempDir(), tinyOptions())
	shared := testFile{"shared", noise(3000)}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 60 {
				m := module.Version{Path: "example.test/m", Version: fmt.Sprintf("v1.%d.%d", w%2, i%7)} // two workers each
				own := testFile{"own", bytes.Repeat([]byte(m.Version), 400)}
				abandon(t, s, m, time.Duration(i%11)*100*time.Microsecond, makeZip(t, m, shared, own))
			}
		})
	}
	wg.Wait()
	checkStore(t, s)
	held, err := s.Held(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held {
		readZip(t, s, h.Root)
		if err := s.Drop(context.Background(), h.Root); err != nil {
			t.Error(err)
		}
	}
	if a := s.Accounting(); a.Files != 0 || a.Wanted != 0 || a.Zips != 0 {
		t.Errorf("all was dropped, left are %+v", a)
	}
	checkStore(t, s)
}

// abandon admits a zip, and goes away after a while.
func abandon(t *testing.T, s *Store, m module.Version, after time.Duration, data []byte) {
	z, err := ScanZip(context.Background(), bytes.NewReader(data), int64(len(data)), m)
	if err != nil {
		t.Error(err)
		return
	}
	rec := zipRecord(t, m, z.Root, z.Size)
	ctx, cancel := context.WithTimeout(context.Background(), after)
	defer cancel()
	st, err := s.StageZip(ctx, z)
	if err == nil {
		err = s.Commit(ctx, rec, st)
		err = errors.Join(err, st.Close())
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
