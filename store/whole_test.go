package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// wholeSizes are of a zip that stands whole in memory, and of one that does in a
// file.
var wholeSizes = []struct {
	name string
	size int
}{{"in memory", 10 << 10}, {"in a file", 200 << 10}}

// warmed puts a zip into a store, and asks for it until it stands whole.
func warmed(t *testing.T, s *Store, size int) (root verify.Digest, want []byte) {
	t.Helper()
	s.hot.space = func() (int64, error) { return 1 << 40, nil }
	m := module.Version{Path: "example.test/warm", Version: "v1.0.0"}
	root = putZip(t, s, m, makeZip(t, m, testFile{"a", noise(size)}))
	want = readZip(t, s, root)
	for range oftenWritten + 1 {
		writeZip(t, s, root)
	}
	z := s.openWhole(root)
	if z == nil {
		t.Fatal("a zip that was asked for often is not at hand whole")
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return root, want
}

func TestWholeZipReadsLikeAnyOther(t *testing.T) {
	for _, c := range wholeSizes {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), smallOptions())
			root, want := warmed(t, s, c.size)
			z, err := s.OpenZip(root)
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			if z.snap != nil {
				t.Error("it was opened with a snapshot of the database")
			}
			part := make([]byte, 100)
			if n, err := z.ReadAt(part, 50); err != nil || !bytes.Equal(part[:n], want[50:150]) {
				t.Errorf("in the middle: %d bytes, %v", n, err)
			}
			if n, err := z.ReadAt(part, z.Size()-10); err != io.EOF || !bytes.Equal(part[:n], want[len(want)-10:]) {
				t.Errorf("across the end: %d bytes, %v", n, err)
			}
			if n, err := z.ReadAt(part, z.Size()); n != 0 || err != io.EOF {
				t.Errorf("at the end: %d bytes, %v", n, err)
			}
			if _, err := z.ReadAt(part, -1); err == nil || err == io.EOF {
				t.Errorf("before the start: %v", err)
			}
			if _, err := z.Seek(-20, io.SeekEnd); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(io.LimitReader(z, 10)); err != nil || !bytes.Equal(got, want[len(want)-20:len(want)-10]) {
				t.Errorf("read after a seek: %d bytes, %v", len(got), err)
			}
			var rest bytes.Buffer
			if n, err := z.WriteTo(&rest); err != nil || n != 10 || !bytes.Equal(rest.Bytes(), want[len(want)-10:]) {
				t.Errorf("the rest: %d bytes, %v", n, err)
			}
		})
	}
}

func TestWholeZipIsNotServedOnceItIsDropped(t *testing.T) {
	for _, c := range wholeSizes {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), smallOptions())
			root, want := warmed(t, s, c.size)
			open, err := s.OpenZip(root)
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			if err := s.Drop(t.Context(), root); err != nil {
				t.Fatal(err)
			}
			if z, err := s.OpenZip(root); !errors.Is(err, ErrNotFound) {
				t.Errorf("after it was dropped: %v, %v", z, err)
			}
			if got, err := io.ReadAll(open); err != nil || !bytes.Equal(got, want) {
				t.Errorf("who had it open reads %d of %d bytes, %v", len(got), len(want), err)
			}
		})
	}
}

func TestWholeZipIsNotServedInQuarantine(t *testing.T) {
	for _, c := range wholeSizes {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), smallOptions())
			root, _ := warmed(t, s, c.size)
			files, err := s.Listing(root)
			if err != nil {
				t.Fatal(err)
			}
			l, err := verify.ParseListing(files)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.quarantine(l.Files[0].Sum, "for the test"); err != nil {
				t.Fatal(err)
			}
			if z, err := s.OpenZip(root); !errors.Is(err, ErrDamaged) {
				t.Errorf("with a file in quarantine: %v, %v", z, err)
			}
		})
	}
}

// TestOpenFilesOfWholeZipsAreUsedAgain: by one reader at a time, each from the
// beginning, and none is left when the zip is gone.
func TestOpenFilesOfWholeZipsAreUsedAgain(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	root, want := warmed(t, s, 200<<10)
	var open []*ZipFile
	for range maxSpareOfOne + 2 {
		z, err := s.OpenZip(root)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.WriteTo(&shortWriter{1 << 10}); err == nil {
			t.Error("no error of a writer that failed")
		}
		open = append(open, z)
	}
	for _, z := range open {
		for range 2 { // the second one changes nothing
			if err := z.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if s.hot.spares != maxSpareOfOne {
		t.Errorf("%d files wait for readers, want %d", s.hot.spares, maxSpareOfOne)
	}
	for range 2 * maxSpareOfOne {
		if got := writeZip(t, s, root); !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes from a file that was used before", len(got), len(want))
		}
	}
	late, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if err := late.Close(); err != nil {
		t.Error(err)
	}
	if s.hot.spares != 0 {
		t.Errorf("%d files wait for readers of a zip that is gone", s.hot.spares)
	}
}

// TestLateReaderBringsNoIndexBack: who saw a zip in a snapshot from before it was
// dropped must not put it where it would be taken for one that is held.
func TestLateReaderBringsNoIndexBack(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	root, _ := warmed(t, s, 10<<10)
	s.cache.zips.remove(root)
	dropped := s.dropped.Load()
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.close()
	if err := s.Drop(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if _, err := s.zipIndex(snap, root, dropped); err != nil {
		t.Fatalf("in its own snapshot the zip is held: %v", err)
	}
	if _, ok := s.cache.zips.get(root); ok {
		t.Error("the index of a dropped zip is in the cache")
	}
}

// TestWholeZipsComeAndGo: while a zip is dropped and comes again, whoever asks gets
// all of it or hears that it is not held.
func TestWholeZipsComeAndGo(t *testing.T) {
	for _, c := range wholeSizes {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), smallOptions())
			root, want := warmed(t, s, c.size)
			m := module.Version{Path: "example.test/warm", Version: "v1.0.0"}
			ctx, stop := context.WithCancel(t.Context())
			var readers sync.WaitGroup
			for range 4 {
				readers.Go(func() {
					for ctx.Err() == nil {
						z, err := s.OpenZip(root)
						if errors.Is(err, ErrNotFound) {
							continue
						}
						if err != nil {
							t.Error(err)
							return
						}
						var got bytes.Buffer
						_, err = z.WriteTo(&got)
						z.Close()
						if err != nil || !bytes.Equal(got.Bytes(), want) {
							t.Errorf("%d of %d bytes, %v", got.Len(), len(want), err)
							return
						}
					}
				})
			}
			for range 20 {
				if err := s.Drop(ctx, root); err != nil {
					t.Error(err)
				}
				if _, err := s.OpenZip(root); !errors.Is(err, ErrNotFound) {
					t.Errorf("served after it was dropped: %v", err)
				}
				putZip(t, s, m, want)
			}
			stop()
			readers.Wait()
			checkStore(t, s)
		})
	}
}
