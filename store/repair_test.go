package store

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/meshproxy/meshproxy/verify"
)

// damagedTables is a store with a flipped bit in the middle of each of its tables.
func damagedTables(t *testing.T) (dir string, roots []verify.Digest) {
	t.Helper()
	dir = t.TempDir()
	s, err := Open(dir, tinyOptions())
	if err != nil {
		t.Fatal(err)
	}
	for i := range flipReleases {
		m, files := flipRelease(i)
		roots = append(roots, putZip(t, s, m, makeZip(t, m, files...)))
		if err := s.Commit(context.Background(), modRecord(t, m, ""), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 9))
	tables, err := filepath.Glob(filepath.Join(dir, "badger", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal("no tables", err)
	}
	for _, name := range tables {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/3+r.IntN(len(data)/3)] ^= 4
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, roots
}

// TestRepair: a scrub finds damaged tables and asks for a repair; the next Open
// does it; what is left fits together; and what was lost can be fetched again.
func TestRepair(t *testing.T) {
	ctx := context.Background()
	dir, roots := damagedTables(t)
	s, err := Open(dir, tinyOptions())
	if err != nil {
		t.Fatal(err)
	}
	report, err := s.Scrub(ctx, ScrubOptions{})
	if err != nil || len(report.Damaged) == 0 {
		t.Fatalf("scrub %+v, %v", report, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, repairMarker)); err != nil {
		t.Fatal(err)
	}

	s = openTest(t, dir, tinyOptions())
	if _, err := os.Stat(filepath.Join(dir, repairMarker)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after the repair the marker is there: %v", err)
	}
	checkStore(t, s)
	if err := verifyTables(s.data, s.db.Opts()); err != nil {
		t.Error(err)
	}
	lost := 0
	for i, root := range roots {
		m, files := flipRelease(i)
		if !s.HasZip(root) {
			lost++
		}
		// As a node does: fetch it again, through the same door.
		if got := putZip(t, s, m, makeZip(t, m, files...)); got != root {
			t.Fatalf("root %s, want %s", got, root)
		}
		if got := readFlipped(s, m, files); got != "good" {
			t.Errorf("release %d after it was fetched again: %s", i, got)
		}
	}
	t.Logf("%d of %d zips had to be fetched again", lost, len(roots))
	if list, err := s.Damaged(); err != nil || len(list) > 0 {
		t.Errorf("still damaged: %v, %v", list, err)
	}
	checkStore(t, s)
}

// TestRepairOfSoundStore changes nothing.
func TestRepairOfSoundStore(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s, err := Open(dir, tinyOptions())
	if err != nil {
		t.Fatal(err)
	}
	m, files := flipRelease(0)
	root := putZip(t, s, m, makeZip(t, m, files...))
	want := readZip(t, s, root)
	acct := s.Accounting()
	if _, err := Repair(ctx, dir, tinyOptions(), nil); !errors.Is(err, ErrLocked) {
		t.Fatalf("repair of an open store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := Repair(ctx, dir, tinyOptions(), nil)
	if err != nil || len(report.LostZips)+len(report.LostRecords) > 0 || report.DamagedFiles+report.Fixed > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	s = openTest(t, dir, tinyOptions())
	if s.Accounting() != acct || string(readZip(t, s, root)) != string(want) {
		t.Error("the store has changed")
	}
	checkStore(t, s)
}

// TestRepairIsInterrupted: whatever a crash leaves, the store opens.
func TestRepairIsInterrupted(t *testing.T) {
	for _, tc := range []struct {
		name string
		left func(t *testing.T, dir string)
	}{
		{"while copying", func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, "badger.new"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"between the renames", func(t *testing.T, dir string) {
			copyDir(t, filepath.Join(dir, "badger"), filepath.Join(dir, "badger.new"))
			if err := os.Rename(filepath.Join(dir, "badger"), filepath.Join(dir, "badger.old")); err != nil {
				t.Fatal(err)
			}
		}},
		{"before the old one is removed", func(t *testing.T, dir string) {
			copyDir(t, filepath.Join(dir, "badger"), filepath.Join(dir, "badger.old"))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(dir, smallOptions())
			if err != nil {
				t.Fatal(err)
			}
			m, files := flipRelease(0)
			root := putZip(t, s, m, makeZip(t, m, files...))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tc.left(t, dir)
			s = openTest(t, dir, smallOptions())
			readZip(t, s, root)
			checkStore(t, s)
			if _, err := os.Stat(filepath.Join(dir, "badger.old")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("badger.old: %v", err)
			}
		})
	}
}
