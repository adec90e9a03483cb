package store

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"sync/atomic"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// flip changes one bit of the value under k, behind the store's back.
func flip(t testing.TB, s *Store, k []byte) {
	t.Helper()
	err := s.db.Update(func(txn *badger.Txn) error {
		item, err := txn.Get(k)
		if err != nil {
			return err
		}
		v, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		v[len(v)/2] ^= 0x10
		return txn.Set(k, v)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// firstChunk is the key of the first chunk of a file.
func firstChunk(t testing.TB, s *Store, sum verify.Digest) []byte {
	t.Helper()
	h, err := s.head(sum)
	if err != nil {
		t.Fatal(err)
	}
	return streamKey(h.num, 0)
}

// deflated is a stream of content, other than the one archive/zip makes.
func deflated(t testing.TB, content []byte, level int) (RawFile, []byte) {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return RawFile{
		Sum: verify.DigestOf(content), Method: zip.Deflate, CRC32: crc32.ChecksumIEEE(content),
		CompressedSize: int64(b.Len()), Size: int64(len(content)),
	}, b.Bytes()
}

func TestDamagedFile(t *testing.T) {
	ctx := context.Background()
	content := bytes.Repeat([]byte("some text that deflates; "), 1000)
	m2 := module.Version{Path: m1.Path, Version: "v1.2.4"}
	for _, tc := range []struct {
		name string
		find func(t *testing.T, s *Store, root verify.Digest)
		heal int // level of the encoding that heals
	}{
		{"found by a read, healed with the same stream", findByRead, -2},
		{"found by a read, healed with another encoding", findByRead, flate.HuffmanOnly},
		{"found by a scrub", findByScrub, flate.BestSpeed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), smallOptions())
			root := putZip(t, s, m1, makeZip(t, m1, testFile{"a", content}, testFile{"b", []byte("b")}))
			root2 := putZip(t, s, m2, makeZip(t, m2, testFile{"a", content}))
			want, want2 := contents(t, readZip(t, s, root)), contents(t, readZip(t, s, root2))
			before := etag(t, s, root)
			sum := verify.DigestOf(content)
			raw, r, err := s.OpenRaw(sum)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				t.Fatal(err)
			}
			flip(t, s, firstChunk(t, s, sum))
			tc.find(t, s, root)
			for _, r := range []verify.Digest{root, root2} {
				if s.HasZip(r) {
					t.Error("a zip with a damaged file is held")
				}
				if _, err := s.OpenZip(r); !errors.Is(err, ErrDamaged) {
					t.Errorf("open: %v", err)
				}
			}
			if list, err := s.Damaged(); err != nil || len(list) != 1 || list[0].Sum != sum {
				t.Fatalf("damaged %v, %v", list, err)
			}
			if held, err := s.Needs(ctx, sum); err != nil || len(held) != 2 {
				t.Fatalf("needed by %v, %v", held, err)
			}
			checkStore(t, s)
			if tc.heal != -2 {
				raw, stream = deflated(t, content, tc.heal)
			}
			if err := s.PutRaw(ctx, raw, bytes.NewReader(stream)); err != nil {
				t.Fatal(err)
			}
			sameContents(t, s, root, want)
			sameContents(t, s, root2, want2)
			if same := etag(t, s, root) == before; same != (tc.heal == -2) {
				t.Errorf("ETag is the same: %v", same)
			}
			checkStore(t, s)
		})
	}
}

func etag(t *testing.T, s *Store, root verify.Digest) string {
	t.Helper()
	z, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.ETag()
}

func sameContents(t *testing.T, s *Store, root verify.Digest, want map[string]string) {
	t.Helper()
	got := contents(t, readZip(t, s, root))
	if len(got) != len(want) {
		t.Fatalf("%d files, want %d", len(got), len(want))
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s differs", name)
		}
	}
}

func findByRead(t *testing.T, s *Store, root verify.Digest) {
	z, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if _, err := io.ReadAll(z); !errors.Is(err, ErrDamaged) {
		t.Fatalf("read of a damaged file: %v", err)
	}
}

func findByScrub(t *testing.T, s *Store, _ verify.Digest) {
	report, err := s.Scrub(context.Background(), ScrubOptions{})
	if err != nil || len(report.Damaged) != 1 {
		t.Fatalf("scrub %+v, %v", report, err)
	}
}

func TestDamagedListing(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	root := putZip(t, s, m1, makeZip(t, m1, testFile{"a", []byte("a")}))
	listing, err := s.Listing(root)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, s, chunkKey(spaceListing, root, 0))
	s.cache.zips.remove(root)
	report, err := s.Scrub(ctx, ScrubOptions{})
	if err != nil || len(report.Damaged) != 1 || s.HasZip(root) {
		t.Fatalf("scrub %+v, %v; held %v", report, err, s.HasZip(root))
	}
	st, err := s.StageListing(ctx, m1, root, listing)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, zipRecord(t, m1, root, 1), st); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	readZip(t, s, root)
	checkStore(t, s)
}

func TestDamagedRecordIsReplaced(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	first, second := modRecord(t, m1, ""), modRecord(t, m1, "go 1.26\n")
	if err := s.Commit(ctx, first, nil); err != nil {
		t.Fatal(err)
	}
	flip(t, s, recordKey(first.Record.Name))
	s.cache.records.remove(first.Record.Name)
	if _, err := s.Record(first.Record.Name); !errors.Is(err, ErrDamaged) {
		t.Fatalf("damaged record: %v", err)
	}
	if err := s.Commit(ctx, second, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Record(first.Record.Name); err != nil || got.Record.Digest != second.Record.Digest {
		t.Fatalf("after the commit: %v", err)
	}
	checkStore(t, s)
}

func TestRunHeals(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	content := []byte("to be damaged")
	raw, stream := deflated(t, content, flate.BestSpeed)
	var s *Store
	asked := make(chan verify.Digest)
	var healed atomic.Bool
	o := smallOptions()
	o.Heal = func(ctx context.Context, sum verify.Digest) error {
		defer func() { asked <- sum }()
		healed.Store(true)
		return s.PutRaw(ctx, raw, bytes.NewReader(stream))
	}
	s = openTest(t, t.TempDir(), o)
	root := putZip(t, s, m1, makeZip(t, m1, testFile{"a", content}))
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	flip(t, s, firstChunk(t, s, raw.Sum))
	findByRead(t, s, root)
	if got := <-asked; got != raw.Sum {
		t.Errorf("asked to heal %s", got)
	}
	readZip(t, s, root)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	checkStore(t, s)
}
