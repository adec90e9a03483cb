package store

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFailingDisk: a disk that answers with an input or output error, from some call
// on, costs nothing that was acknowledged, whichever call it is. The errors are put
// in by strace, between a process that works on a store and the kernel.
func TestFailingDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.Command(strace, "-f", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: %v: %s", err, out)
	}
	cases := map[string]fault{
		"a log is synced":           {call: "msync", from: "20+", flat: true},
		"a directory is synced":     {call: "fsync", from: "3+", only: "badger"},
		"the MANIFEST is synced":    {call: "fsync", from: "2+", only: "badger/MANIFEST"},
		"a log or table is resized": {call: "ftruncate", from: "5+", flat: true},
		"a file is opened":          {call: "openat", from: "40+", flat: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			want := make(map[string]bool)
			failed := failAfter(t, strace, c, dir, want)
			t.Logf("%d writes were acknowledged; then: %q", len(want), failed)
			checkCrashed(t, dir, want)
		})
	}
}

// fault is a call that fails with EIO from its so many-th in each thread on.
type fault struct {
	call, from string
	only       string // on this file or directory of the store

	// flat is for calls with which Badger also writes the tables that it merges others
	// into: when that fails it goes on as if it had not, without what was in them
	// (levelsController.subcompact, v4.9.6: the error is read before it is there).
	flat bool
}

// failAfter runs the child of TestCrash, in which calls fail, until it gives up or has worked for long enough. It
// returns why it gave up, which is for Badger to say: what it can do again, it may.
func failAfter(t *testing.T, strace string, f fault, dir string, want map[string]bool) (failed string) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	args := []string{"-f", "-qq", "-o", trace, "-e", "trace=" + f.call, "-e", "inject=" + f.call + ":error=EIO:when=" + f.from}
	if f.only != "" {
		args = append(args, "-P", filepath.Join(dir, f.only))
	}
	cmd := exec.Command(strace, append(args, os.Args[0], "-test.run=^TestCrashChild$")...)
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	if f.flat {
		cmd.Env = append(cmd.Env, flatEnv+"=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over, stopped := make(chan struct{}), make(chan struct{})
	defer func() { close(over); <-stopped }()
	go func() {
		defer close(stopped)
		if letWork(trace, over) {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "record", "zip":
			want[lines.Text()] = true
		case "dropping":
			delete(want, "zip "+rest)
		case "fatal":
			failed = rest
		}
	}
	_ = cmd.Wait() // it failed or was killed
	if !injected(trace) {
		t.Errorf("no call of %s failed", f.call)
	}
	return failed
}

// letWork returns a few seconds after the first call has failed, so that what follows from that shows, or when over is
// closed, which it tells by false. A process that never comes to such a call has two minutes.
func letWork(trace string, over <-chan struct{}) bool {
	end := time.After(2 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !injected(trace) {
		select {
		case <-tick.C:
		case <-over:
			return false
		case <-end:
			return true
		}
	}
	select {
	case <-time.After(5 * time.Second):
		return true
	case <-over:
		return false
	}
}

// injected tells whether a call has failed.
func injected(trace string) bool {
	calls, err := os.ReadFile(trace)
	return err == nil && strings.Contains(string(calls), "INJECTED")
}
