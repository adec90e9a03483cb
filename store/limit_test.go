//go:build unix

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

const limitEnv = "MESHPROXY_TEST_LIMIT_DIR"

// TestLimitChild is no test: it writes until the system refuses to let a file
// grow, as a disk that fails in the middle of a write does.
func TestLimitChild(t *testing.T) {
	dir := os.Getenv(limitEnv)
	if dir == "" {
		t.Skip("only for TestFailedWrite")
	}
	ctx := context.Background()
	s, err := Open(dir, tinyOptions())
	if err != nil {
		t.Fatal(err)
	}
	run := make(chan error, 1)
	go func() { run <- s.Run(ctx) }()
	for i := range 500 {
		if i == 5 {
			signal.Ignore(syscall.SIGXFSZ)
			limit := syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20} // less than any new log
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
				t.Fatal(err)
			}
		}
		m := module.Version{Path: "example.test/limit", Version: fmt.Sprintf("v1.%d.0", i)}
		data := makeZip(t, m, testFile{"f", noise(200 << 10)}, testFile{"g", []byte(m.Version)})
		z, err := ScanZip(ctx, bytes.NewReader(data), int64(len(data)), m)
		if err != nil {
			t.Fatal(err)
		}
		st, err := s.StageZip(ctx, z)
		if err == nil {
			err = s.Commit(ctx, zipRecord(t, m, z.Root, z.Size), st)
		}
		if err == nil {
			fmt.Println("zip", z.Root.Hex())
			continue
		}
		fmt.Println("failed", errors.Is(err, ErrFailed))
		if _, err := s.Record(verify.Name{Module: m, Kind: verify.Zip}); !errors.Is(err, ErrFailed) {
			fmt.Println("read after failure:", err)
		}
		fmt.Println("run", errors.Is(<-run, ErrFailed))
		os.Exit(0) // as a node does
	}
}

// TestFailedWrite: after a write that failed half way the store says so, to every
// caller and to Run, and a new process finds all that was acknowledged.
func TestFailedWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLimitChild$")
	cmd.Env = append(os.Environ(), limitEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("failed true\nrun true\n")) {
		t.Fatalf("%v\n%.4000s", err, out)
	}
	want := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "zip ") {
			want[strings.TrimSpace(line)] = true
		}
	}
	if len(want) < 6 {
		t.Fatalf("%d zips were acknowledged", len(want))
	}
	checkCrashed(t, dir, want)
}

// TestConflictsAreBounded: a liar's records do not fill the disk.
func TestConflictsAreBounded(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	m := module.Version{Path: "example.test/m", Version: "v1.0.0"}
	other := module.Version{Path: "example.test/m", Version: "v1.1.0"}
	for i := range 2 * maxConflictsName {
		err := s.Commit(context.Background(), modRecord(t, m, fmt.Sprintf("// %d\n", i)), nil)
		if i > 0 && !errors.Is(err, ErrConflict) {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	if list, err := s.Conflicts(); err != nil || len(list) != maxConflictsName {
		t.Errorf("%d conflicts kept, %v; want %d", len(list), err, maxConflictsName)
	}
	for i := range 2 {
		_ = s.Commit(context.Background(), modRecord(t, other, fmt.Sprintf("// %d\n", i)), nil)
	}
	if list, err := s.Conflicts(); err != nil || len(list) != maxConflictsName+1 {
		t.Errorf("%d conflicts kept, %v; want one of another name too", len(list), err)
	}
	checkStore(t, s)
}
