//go:build unix

package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// crashEnv names the directory in which a child of the tests works; crashesEnv
// how often it is killed.
const (
	crashEnv   = "MESHPROXY_TEST_CRASH_DIR"
	crashesEnv = "MESHPROXY_TEST_CRASHES"
)

// flatEnv says that the child's Badger merges no tables.
const flatEnv = "MESHPROXY_TEST_CRASH_FLAT"

// tinyOptions make Badger flush, compact and change files all the time.
func tinyOptions() Options {
	o := smallOptions()
	o.tune = func(b badger.Options) badger.Options {
		return b.WithMemTableSize(1 << 20).WithValueLogFileSize(2 << 20).WithBaseTableSize(256 << 10).WithBaseLevelSize(1 << 20)
	}
	return o
}

// TestCrashChild is no test: it is the process that TestCrash kills.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		t.Skip("only for TestCrash")
	}
	o := tinyOptions()
	if os.Getenv(flatEnv) != "" {
		tiny := o.tune
		o.tune = func(b badger.Options) badger.Options { return tiny(b).WithNumCompactors(0) }
	}
	s, err := Open(dir, o)
	if err != nil {
		fmt.Println("fatal", err)
		os.Exit(1)
	}
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	say("open")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(w)))
			for {
				if err := crashStep(s, r, say); err != nil {
					say("fatal %v", err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
}

// crashStep does one thing that a node does, and says so once it is acknowledged.
func crashStep(s *Store, r *rand.Rand, say func(string, ...any)) error {
	ctx := context.Background()
	m := module.Version{Path: fmt.Sprintf("example.test/m%d", r.IntN(5)), Version: fmt.Sprintf("v1.%d.0", r.IntN(100_000))}
	switch r.IntN(12) {
	case 0, 1, 2:
		rec := modRecordOf(m)
		if err := s.Commit(ctx, rec, nil); err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
		say("record %s %s", m.Path, m.Version)
		return nil
	case 3:
		held, err := s.Held(ctx)
		if err != nil || len(held) < 30 {
			return err
		}
		victim := held[r.IntN(len(held))]
		say("dropping %s", victim.Root.Hex())
		if err := s.Drop(ctx, victim.Root); err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrBusy) {
			return err
		}
		return nil
	case 4:
		if r.IntN(20) == 0 {
			if _, err := s.GC(ctx, GCOptions{}); err != nil {
				return err
			}
			return s.reclaim(ctx) // GC would not find it worth it
		}
		return s.SetMeta("name", []byte(m.Version))
	default:
		return crashZip(s, r, m, say)
	}
}

func crashZip(s *Store, r *rand.Rand, m module.Version, say func(string, ...any)) error {
	ctx := context.Background()
	t := &testing.B{} // makeZip's errors cannot happen
	files := []testFile{{"shared", bytes.Repeat([]byte("shared"), 300)}}
	for i := range 1 + r.IntN(30) {
		files = append(files, testFile{fmt.Sprintf("f%d", i), source(rand.New(rand.NewPCG(uint64(r.IntN(200)), 7)), 100+r.IntN(4000))})
	}
	if r.IntN(10) == 0 {
		files = append(files, testFile{"large", noise(chunkSize + r.IntN(chunkSize))})
	}
	data := makeZip(t, m, files...)
	z, err := ScanZip(ctx, bytes.NewReader(data), int64(len(data)), m)
	if err != nil {
		return err
	}
	st, err := s.StageZip(ctx, z)
	if err != nil {
		return err
	}
	defer st.Close()
	if r.IntN(6) == 0 {
		return nil // given up
	}
	err = s.Commit(ctx, zipRecord(t, m, z.Root, z.Size), st)
	if errors.Is(err, ErrConflict) {
		return nil
	}
	if err == nil {
		say("zip %s", z.Root.Hex())
	}
	return err
}

func modRecordOf(m module.Version) *verify.Signed { return modRecord(&testing.B{}, m, "") }

// TestCrash kills a process that works on a store, again and again, and looks
// after each time whether all that was acknowledged is there, and nothing is that
// should not be.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	kills := 10
	if n, err := strconv.Atoi(os.Getenv(crashesEnv)); err == nil {
		kills = n
	}
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	want := make(map[string]bool) // acknowledged and never dropped
	acknowledged := 0
	defer func() { t.Logf("%d kills, %d acknowledged writes looked for", kills, acknowledged) }()
	for i := range kills {
		crashOnce(t, dir, time.Duration(20+r.IntN(400))*time.Millisecond, want)
		checkCrashed(t, dir, want)
		if t.Failed() {
			t.Fatalf("after %d kills", i+1)
		}
		acknowledged += len(want)
		if i%50 == 49 { // begin anew, or checking takes ever longer
			dir, want = t.TempDir(), make(map[string]bool)
		}
	}
}

// crashOnce runs the child, kills it after a while, and notes what it said.
func crashOnce(t *testing.T, dir string, after time.Duration, want map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "open":
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		case "record", "zip":
			want[lines.Text()] = true
		case "dropping":
			delete(want, "zip "+rest)
		case "fatal":
			t.Errorf("child: %s", rest)
		}
	}
	_ = cmd.Wait() // it was killed
	if timer == nil {
		t.Fatal("the child never opened the store")
	}
	timer.Stop()
}

func checkCrashed(t *testing.T, dir string, want map[string]bool) {
	t.Helper()
	s, err := Open(dir, tinyOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	checkStore(t, s)
	for line := range want {
		f := strings.Fields(line)
		switch f[0] {
		case "record":
			if _, err := s.Record(verify.Name{Module: module.Version{Path: f[1], Version: f[2]}, Kind: verify.Mod}); err != nil {
				t.Errorf("acknowledged: %v", err)
			}
		case "zip":
			root, err := verify.ParseHex(f[1])
			if err != nil {
				t.Fatal(err)
			}
			z, err := s.OpenZip(root)
			if err != nil {
				t.Errorf("acknowledged: %v", err)
				continue
			}
			if _, err := io.Copy(io.Discard, z); err != nil {
				t.Error(err)
			}
			z.Close()
		}
	}
}
