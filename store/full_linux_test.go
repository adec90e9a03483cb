package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// smallDisk is a file system of its own of some MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk: with the disk full, writes are refused, reads go on, nothing that
// was acknowledged is lost, and writes go on when there is room again.
func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	disk := smallDisk(t, 96)
	o := tinyOptions()
	o.Reserve = 32 << 20
	s, err := Open(filepath.Join(disk, "store"), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	var roots []verify.Digest
	put := func(i int) error {
		m := module.Version{Path: "example.test/full", Version: fmt.Sprintf("v1.%d.0", i)}
		data := makeZip(t, m, testFile{"large", noise(1500 << 10)}, testFile{"small", noise(3000)})
		z, err := ScanZip(ctx, bytes.NewReader(data), int64(len(data)), m)
		if err != nil {
			t.Fatal(err)
		}
		st, err := s.StageZip(ctx, z)
		if err != nil {
			return err
		}
		defer st.Close()
		if err := s.Commit(ctx, zipRecord(t, m, z.Root, z.Size), st); err != nil {
			return err
		}
		roots = append(roots, z.Root)
		return nil
	}
	n := 0
	for err = error(nil); err == nil && n < 200; n++ {
		err = put(n)
	}
	if !errors.Is(err, ErrFull) || len(roots) < 10 {
		t.Fatalf("after %d zips: %v", len(roots), err)
	}
	for _, root := range roots {
		readZip(t, s, root)
	}
	if s.Accounting().Zips != int64(len(roots)) {
		t.Fatalf("accounting %+v", s.Accounting())
	}
	// Dropping is possible on a full disk, and makes room.
	for _, root := range roots[:len(roots)/2] {
		if err := s.Drop(ctx, root); err != nil {
			t.Fatal(err)
		}
	}
	report, err := s.GC(ctx, GCOptions{Reclaim: true})
	if err != nil || report.DiskAfter >= report.DiskBefore {
		t.Fatalf("gc on a full disk: %+v, %v", report, err)
	}
	roots = roots[len(roots)/2:]
	if err := put(n + 1); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(filepath.Join(disk, "store"), o); err != nil {
		t.Fatal(err)
	}
	for _, root := range roots {
		readZip(t, s, root)
	}
	checkStore(t, s)
}

// TestNoRoomToOpen: a disk without room for a log is an error, no signal.
func TestNoRoomToOpen(t *testing.T) {
	disk := smallDisk(t, 2)
	if err := os.WriteFile(filepath.Join(disk, "ballast"), make([]byte, 2<<20-8<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(disk, "store"), smallOptions())
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("%v", err)
	}
}
