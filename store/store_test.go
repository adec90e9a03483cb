package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"os"
	"path/filepath"

	"github.com/meshproxy/meshproxy/verify"
)

var m1 = module.Version{Path: "example.test/acme/One", Version: "v1.2.3"}

func TestZipRoundTrip(t *testing.T) {
	big := noise(3<<20 + 17)
	for _, tc := range []struct {
		name  string
		files []testFile
	}{
		{"one file", []testFile{{"go.mod", []byte("module example.test/acme/One\n")}}},
		{"unsorted, repeated and empty files", []testFile{{"z.go", []byte("package z")}, {"a/b.go", []byte("package z")}, {"empty", nil}}},
		{"larger than a chunk", []testFile{{"big", big}, {"small", []byte("x")}}},
		{"exactly one chunk stored", []testFile{{"chunk", big[:chunkSize]}}},
		{"non-ASCII name", []testFile{{"gö/日本.txt", []byte("x")}}},
		{"directory entry", []testFile{{"dir/", nil}, {"dir/file", []byte("x")}}},
		{"no file", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), smallOptions())
			data := makeZip(t, m1, tc.files...)
			root := putZip(t, s, m1, data)
			if want := hashZip(t, data); root.H1() != want {
				t.Fatalf("root is %s, dirhash says %s", root.H1(), want)
			}
			got := readZip(t, s, root)
			if !maps.Equal(contents(t, got), contents(t, data)) {
				t.Fatal("contents differ")
			}
			if hashZip(t, got) != root.H1() {
				t.Fatal("the served zip has another h1")
			}
			if !bytes.Equal(got, readZip(t, s, root)) {
				t.Fatal("second reading gives other bytes")
			}
			checkStore(t, s)
		})
	}
}

func hashZip(t testing.TB, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "m.zip")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestPull is how a zip comes from a peer: listing first, then the files that
// are missing, while a client already reads.
func TestPull(t *testing.T) {
	ctx := context.Background()
	a, b := openTest(t, t.TempDir(), smallOptions()), openTest(t, t.TempDir(), smallOptions())
	m2 := module.Version{Path: m1.Path, Version: "v1.2.4"}
	shared := testFile{"shared.go", []byte("package shared")}
	big := testFile{"big", noise(2<<20 + 5)}
	putZip(t, b, m1, makeZip(t, m1, shared))
	root := putZip(t, a, m2, makeZip(t, m2, shared, big, testFile{"new.go", []byte("package n")}, testFile{"d/", nil}))

	listing, err := a.Listing(root)
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.StageListing(ctx, m2, root, listing)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	missing, err := st.Missing()
	if err != nil || len(missing) != 2 {
		t.Fatalf("missing %v, %v: want big and new.go", missing, err)
	}
	if err := b.Commit(ctx, zipRecord(t, m2, root, 1), st); !errors.Is(err, ErrIncomplete) {
		t.Fatalf("commit with files missing: %v", err)
	}
	if b.HasZip(root) {
		t.Fatal("an incomplete zip is held")
	}
	var streamed bytes.Buffer
	fetched := 0
	err = st.WriteTo(ctx, &streamed, func(ctx context.Context, f verify.File) error {
		fetched++
		raw, r, err := a.OpenRaw(f.Sum)
		if err != nil {
			return err
		}
		defer r.Close()
		return b.PutRaw(ctx, raw, r)
	})
	if err != nil || fetched != 2 {
		t.Fatalf("%d files fetched, %v", fetched, err)
	}
	size, err := st.Size()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(ctx, zipRecord(t, m2, root, size), st); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(streamed.Bytes(), readZip(t, b, root)) || !bytes.Equal(streamed.Bytes(), readZip(t, a, root)) {
		t.Fatal("streamed, kept and original zip differ")
	}
	if acct := b.Accounting(); acct.Shared != 1 || acct.Zips != 2 || acct.Files != 3 {
		t.Fatalf("accounting %+v", acct)
	}
	checkStore(t, b)
}

func TestZipFileSeekAndReadAt(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	root := putZip(t, s, m1, makeZip(t, m1, testFile{"a", noise(1<<20 + 100)}, testFile{"b", noise(10)}, testFile{"c", nil}))
	want := readZip(t, s, root)
	z, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, off := range []int64{0, 1, 40, 1 << 20, 1<<20 + 90, z.Size() - 30, z.Size() - 1} {
		got := make([]byte, 25)
		n, err := z.ReadAt(got, off)
		if !bytes.Equal(got[:n], want[off:min(off+25, z.Size())]) || (n < 25) != (err == io.EOF) {
			t.Errorf("ReadAt %d: %d bytes, %v", off, n, err)
		}
		if _, err := z.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(struct{ io.Reader }{z})
		if err != nil || !bytes.Equal(rest, want[off:]) {
			t.Errorf("read from %d: %d bytes, %v", off, len(rest), err)
		}
	}
}

func TestRecords(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := openTest(t, dir, smallOptions())
	m2 := module.Version{Path: m1.Path, Version: "v1.10.0"}
	m3 := module.Version{Path: "example.test/acme/One/sub", Version: "v0.1.0"}
	start := time.Now()
	for _, m := range []module.Version{m2, m1, m3} {
		for _, r := range []*verify.Signed{infoRecord(t, m, ""), modRecord(t, m, "")} {
			if err := s.Commit(ctx, r, nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(ctx, r, nil); err != nil {
				t.Fatalf("the same again: %v", err)
			}
			got, err := s.Record(r.Record.Name)
			if err != nil || !bytes.Equal(got.Envelope, r.Envelope) {
				t.Fatalf("%s: %v", r.Record.Name, err)
			}
		}
	}
	if _, err := s.Record(verify.Name{Module: m1, Kind: verify.Zip}); !errors.Is(err, ErrNotFound) {
		t.Fatalf("record that is not there: %v", err)
	}
	if v, err := s.Versions(m1.Path); err != nil || len(v) != 2 || v[0] != "v1.10.0" {
		t.Fatalf("versions %v, %v", v, err)
	}
	list, err := s.Index(start, 10)
	if err != nil || len(list) != 3 || list[0].Module != m2 || list[2].Module != m3 {
		t.Fatalf("index %v, %v", list, err)
	}
	if later, err := s.Index(list[1].At, 1); err != nil || len(later) != 1 || later[0].Module != m1 {
		t.Fatalf("index from the second on: %v, %v", later, err)
	}
	page, next, err := s.Catalog("", 2)
	if err != nil || len(page) != 2 || page[1] != m1 || next == "" {
		t.Fatalf("catalog %v, %q, %v", page, next, err)
	}
	page, next, err = s.Catalog(next, 2)
	if err != nil || len(page) != 1 || page[0] != m3 || next != "" {
		t.Fatalf("catalog, second page %v, %q, %v", page, next, err)
	}
	checkStore(t, s)
}

func TestConflict(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	first, second := modRecord(t, m1, ""), modRecord(t, m1, "go 1.26\n")
	if err := s.Commit(ctx, first, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var conflict *ConflictError
		err := s.Commit(ctx, second, nil)
		if !errors.Is(err, ErrConflict) || !errors.As(err, &conflict) {
			t.Fatalf("second digest: %v", err)
		}
		if conflict.Have.Record.Digest != first.Record.Digest || conflict.Got != second {
			t.Fatalf("conflict %+v", conflict)
		}
	}
	if got, err := s.Record(first.Record.Name); err != nil || got.Record.Digest != first.Record.Digest {
		t.Fatalf("the first does not stay: %v", err)
	}
	list, err := s.Conflicts()
	if err != nil || len(list) != 1 || !bytes.Equal(list[0].Got.Envelope, second.Envelope) || list[0].Have == nil {
		t.Fatalf("evidence %+v, %v", list, err)
	}
	checkStore(t, s)
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, smallOptions())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, smallOptions()); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	root := putZip(t, s, m1, makeZip(t, m1, testFile{"a", []byte("a")}))
	// Staged and never committed, as after a crash.
	m2 := module.Version{Path: m1.Path, Version: "v2.0.0+incompatible"}
	z, _ := stageZip(t, s, m2, makeZip(t, m2, testFile{"a", []byte("a")}, testFile{"b", noise(3 << 20)}))
	open, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(open); !errors.Is(err, ErrClosed) {
		t.Fatalf("read after close: %v", err)
	}
	open.Close()
	s = openTest(t, dir, smallOptions())
	if !s.HasZip(root) || s.HasZip(z.Root) {
		t.Fatal("committed zip gone or staged one there")
	}
	if a := s.Accounting(); a.Files != 1 || a.Shared != 0 || a.Zips != 1 {
		t.Fatalf("accounting %+v", a)
	}
	checkStore(t, s)
}

func TestValues(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	now := time.Now()
	if err := s.SetMutable("list example.test/a", []byte("v1.0.0\n"), now); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMutable("list example.test/a", []byte("old"), now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	v, at, err := s.Mutable("list example.test/a")
	if err != nil || string(v) != "v1.0.0\n" || !at.Equal(now) {
		t.Fatalf("%q at %v, %v", v, at, err)
	}
	// What was kept when the clock was wrong is known, and gives way to the next answer.
	if err := s.SetMutable("list example.test/b", []byte("v1.0.0\n"), now.Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if v, at, err := s.Mutable("list example.test/b"); err != nil || string(v) != "v1.0.0\n" || !at.IsZero() {
		t.Errorf("of tomorrow: %q at %v, %v", v, at, err)
	}
	if err := s.SetMutable("list example.test/b", []byte("v1.1.0\n"), now); err != nil {
		t.Fatal(err)
	}
	if v, at, err := s.Mutable("list example.test/b"); err != nil || string(v) != "v1.1.0\n" || !at.Equal(now) {
		t.Errorf("after the clock was set: %q at %v, %v", v, at, err)
	}
	if _, _, err := s.Mutable("other"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	cache := s.SumDB()
	if _, err := cache.Get("tile/8/0/000"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := cache.Put("tile/8/0/000", []byte("tile")); err != nil {
		t.Fatal(err)
	}
	if b, err := cache.Get("tile/8/0/000"); err != nil || string(b) != "tile" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := s.SetMeta("roster", make([]byte, MaxValue+1)); err == nil {
		t.Fatal("a value over the limit was kept")
	}
	if err := s.SetMeta("roster", []byte("r")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Meta("roster"); err != nil || string(b) != "r" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := s.SetMeta("roster", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Meta("roster"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
}

func TestPutRawRefuses(t *testing.T) {
	ctx := context.Background()
	content := bytes.Repeat([]byte("package a\n"), 1000)
	data := makeZip(t, m1, testFile{"a.go", content})
	z, err := ScanZip(ctx, bytes.NewReader(data), int64(len(data)), m1)
	if err != nil {
		t.Fatal(err)
	}
	sum := verify.DigestOf(content)
	good, _ := z.Stream(sum)
	stream, err := io.ReadAll(z.Open(good))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(f *RawFile, b []byte) []byte
	}{
		{"other content", func(f *RawFile, b []byte) []byte {
			f.Method, f.Size, f.CompressedSize = 0, 5, 5
			return []byte("other")
		}},
		{"wrong CRC", func(f *RawFile, b []byte) []byte { f.CRC32++; return b }},
		{"size too small", func(f *RawFile, b []byte) []byte { f.Size--; return b }},
		{"size too large", func(f *RawFile, b []byte) []byte { f.Size++; return b }},
		{"trailing bytes", func(f *RawFile, b []byte) []byte { f.CompressedSize++; return append(b, 0) }},
		{"missing bytes", func(f *RawFile, b []byte) []byte { f.CompressedSize--; return b[:len(b)-1] }},
		{"unknown method", func(f *RawFile, b []byte) []byte { f.Method = 12; return b }},
		{"over the limit", func(f *RawFile, b []byte) []byte { f.CompressedSize = verify.MaxZip + 1; return b }},
		{"bomb in a large stream", func(f *RawFile, b []byte) []byte {
			f.CompressedSize = chunkSize * 2
			return append(b, make([]byte, chunkSize*2-len(b))...)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			refusesRaw(t, z, good.Raw, stream, tc.change)
		})
	}
}

// refusesRaw checks that a changed stream is refused, leaves nothing, and that the
// good one is taken after it.
func refusesRaw(t *testing.T, z *Scanned, good RawFile, stream []byte, change func(*RawFile, []byte) []byte) {
	t.Helper()
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	if err := s.PutRaw(ctx, good, bytes.NewReader(stream)); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a file that no listing names: %v", err)
	}
	st, err := s.StageListing(ctx, m1, z.Root, z.Listing.Encode())
	if err != nil {
		t.Fatal(err)
	}
	f := good
	b := change(&f, bytes.Clone(stream))
	if err := s.PutRaw(ctx, f, bytes.NewReader(b)); !errors.Is(err, ErrBadFile) {
		t.Fatalf("accepted or other error: %v", err)
	}
	if s.HasFile(good.Sum) {
		t.Fatal("something was kept")
	}
	if err := s.PutRaw(ctx, good, bytes.NewReader(stream)); err != nil || !s.HasFile(good.Sum) {
		t.Fatalf("the good stream: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if s.HasFile(good.Sum) || s.Accounting() != (Accounting{}) {
		t.Fatalf("closing left %+v", s.Accounting())
	}
	checkStore(t, s)
}

func TestStageListingRefuses(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	prefix := m1.Path + "@" + m1.Version + "/"
	for _, tc := range []struct{ name, file string }{
		{"other module", "example.test/acme/Two@v1.2.3/a"},
		{"parent directory", prefix + "../a"},
		{"windows name", prefix + "con.txt"},
		{"go.mod in a directory", prefix + "sub/go.mod"},
		{"directory with content", prefix + "dir/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := verify.Listing{Files: []verify.File{{Name: tc.file, Sum: verify.DigestOf([]byte("x"))}}}
			if _, err := s.StageListing(ctx, m1, l.Digest(), l.Encode()); !errors.Is(err, ErrBadFile) {
				t.Fatalf("accepted or other error: %v", err)
			}
		})
	}
	if _, err := s.StageListing(ctx, m1, verify.DigestOf(nil), []byte("x")); !errors.Is(err, ErrBadFile) {
		t.Fatalf("listing with another digest: %v", err)
	}
	checkStore(t, s)
}
