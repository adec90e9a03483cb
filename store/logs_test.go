package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// TestFlippedBitCostsOneValue: a bit that flips at the beginning of the newest
// value log while the store is closed costs the value that it is in, and none of
// those behind it.
func TestFlippedBitCostsOneValue(t *testing.T) {
	const releases = 20
	dir := t.TempDir()
	s, err := Open(dir, smallOptions())
	if err != nil {
		t.Fatal(err)
	}
	roots := make([]verify.Digest, releases)
	for i := range roots {
		m := module.Version{Path: "example.test/m", Version: fmt.Sprintf("v1.%d.0", i)}
		roots[i] = putZip(t, s, m, makeZip(t, m, testFile{"a.bin", noise(50_000)}))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	newest, size, err := newestLog(filepath.Join(dir, "badger"))
	if err != nil || size < releases*50_000 {
		t.Fatalf("value log %d of %d bytes, %v", newest, size, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "badger", fmt.Sprintf("%06d.vlog", newest)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("flipped"), 10_000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time the log is not the newest
		s = openTest(t, dir, smallOptions())
		lost := 0
		for _, root := range roots {
			z, err := s.OpenZip(root)
			if err == nil {
				_, err = z.ReadAt(make([]byte, z.Size()), 0)
				z.Close()
			}
			if errors.Is(err, ErrDamaged) {
				lost++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if lost != 1 {
			t.Errorf("%d of %d zips are damaged, want the one that was hit", lost, releases)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
