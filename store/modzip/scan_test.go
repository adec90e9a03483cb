package modzip

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"

	"github.com/meshproxy/meshproxy/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var mod = module.Version{Path: "example.test/acme/one", Version: "v1.2.3"}

const prefix = "example.test/acme/one@v1.2.3/"

// entry is one file of a zip to be built, honest or not.
type entry struct {
	name   string
	data   []byte
	stream []byte // DEFLATE of data when nil
	stored bool
	header func(h *zip.FileHeader) // applied last: lies to local header and directory alike
}

// build writes a zip with sizes in local headers, so that every field can lie.
func build(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		stream := e.stream
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate, CRC32: crc32.ChecksumIEEE(e.data), UncompressedSize64: uint64(len(e.data))}
		switch {
		case e.stored:
			h.Method, stream = zip.Store, e.data
		case stream == nil:
			stream = deflate(t, e.data)
		}
		h.CompressedSize64 = uint64(len(stream))
		if e.header != nil {
			e.header(h)
		}
		f, err := w.CreateRaw(h)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.name, "/") {
			continue
		}
		if _, err := f.Write(stream); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func deflate(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func scanBytes(data []byte) (*Scanned, error) {
	return Scan(context.Background(), bytes.NewReader(data), int64(len(data)), mod)
}

// patch changes a copy of data at the n-th occurrence of a signature.
func patch(data []byte, signature uint32, n, offset int, value []byte) []byte {
	data = bytes.Clone(data)
	sig := binary.LittleEndian.AppendUint32(nil, signature)
	at := 0
	for i := 0; ; i++ {
		j := bytes.Index(data[at:], sig)
		if j < 0 {
			panic("no such signature")
		}
		at += j
		if i == n {
			copy(data[at+offset:], value)
			return data
		}
		at += len(sig)
	}
}

// hostileZips are zips that must be refused, by what is wrong with them.
func hostileZips(t testing.TB) map[string][]byte {
	text := []byte(strings.Repeat("package a\n", 50))
	good := build(t, entry{name: prefix + "a.go", data: text}, entry{name: prefix + "b.go", data: []byte("package b")})
	le := binary.LittleEndian
	bomb := deflate(t, make([]byte, 10<<20))
	z := map[string][]byte{
		"empty":                      nil,
		"no zip":                     []byte("hello"),
		"truncated":                  good[:len(good)-10],
		"without its directory":      good[:bytes.Index(good, []byte("PK\x01\x02"))],
		"bytes before the first":     append([]byte("#!/bin/sh\n"), good...),
		"bytes after the end":        append(bytes.Clone(good), "trailing"...),
		"outside the module":         build(t, entry{name: "example.test/acme/two@v1.2.3/a.go", data: text}),
		"other version":              build(t, entry{name: "example.test/acme/one@v1.2.4/a.go", data: text}),
		"parent directory":           build(t, entry{name: prefix + "../a.go", data: text}),
		"absolute path":              build(t, entry{name: "/etc/passwd", data: text}),
		"backslash":                  build(t, entry{name: prefix + `a\b.go`, data: text}),
		"drive":                      build(t, entry{name: prefix + "c:/a.go", data: text}),
		"windows device":             build(t, entry{name: prefix + "aux.go", data: text}),
		"zero byte":                  build(t, entry{name: prefix + "a\x00.go", data: text}),
		"newline":                    build(t, entry{name: prefix + "a\n.go", data: text}),
		"not UTF-8":                  build(t, entry{name: prefix + "a\xff.go", data: text}),
		"double slash":               build(t, entry{name: prefix + "a//b.go", data: text}),
		"same name twice":            build(t, entry{name: prefix + "a.go", data: text}, entry{name: prefix + "a.go", data: text}),
		"differ in case":             build(t, entry{name: prefix + "a.go", data: text}, entry{name: prefix + "A.go", data: text}),
		"differ in case, Unicode":    build(t, entry{name: prefix + "straße.go", data: text}, entry{name: prefix + "STRAßE.go", data: text}),
		"differ in case, Kelvin":     build(t, entry{name: prefix + "k.go", data: text}, entry{name: prefix + "\u212a.go", data: text}),
		"directories differ in case": build(t, entry{name: prefix + "d/a.go", data: text}, entry{name: prefix + "D/b.go", data: text}),
		"file and directory":         build(t, entry{name: prefix + "a", data: text}, entry{name: prefix + "a/b", data: text}),
		"directory twice":            build(t, entry{name: prefix + "d/", stored: true}, entry{name: prefix + "d/", stored: true}),
		"directory with content": build(t, entry{name: prefix + "d/", stored: true, header: func(h *zip.FileHeader) {
			h.UncompressedSize64, h.CompressedSize64 = 5, 5
		}}),
		"go.mod below the root": build(t, entry{name: prefix + "sub/go.mod", data: text}),
		"go.mod in capitals":    build(t, entry{name: prefix + "GO.MOD", data: text}),
		"go.mod too large": build(t, entry{name: prefix + "go.mod", data: text, header: func(h *zip.FileHeader) {
			h.UncompressedSize64 = verify.MaxMod + 1
		}}),
		"symbolic link": build(t, entry{name: prefix + "a", data: []byte("/etc/passwd"), header: func(h *zip.FileHeader) {
			h.SetMode(fs.ModeSymlink | 0o777)
		}}),
		"device":                     build(t, entry{name: prefix + "a", header: func(h *zip.FileHeader) { h.SetMode(fs.ModeDevice | 0o666) }}),
		"encrypted":                  build(t, entry{name: prefix + "a", data: text, header: func(h *zip.FileHeader) { h.Flags |= 1 }}),
		"unknown method":             build(t, entry{name: prefix + "a", data: text, header: func(h *zip.FileHeader) { h.Method = 12 }}),
		"CRC lie":                    build(t, entry{name: prefix + "a", data: text, header: func(h *zip.FileHeader) { h.CRC32++ }}),
		"size too small":             build(t, entry{name: prefix + "a", data: text, header: func(h *zip.FileHeader) { h.UncompressedSize64-- }}),
		"size too large":             build(t, entry{name: prefix + "a", data: text, header: func(h *zip.FileHeader) { h.UncompressedSize64++ }}),
		"bomb, honest":               bombs(t, bomb, 10<<20),
		"bomb that says it is small": build(t, entry{name: prefix + "a", data: text, stream: bomb}),
		"stream with trailing bytes": build(t, entry{name: prefix + "a", data: text, stream: append(deflate(t, text), 0, 0)}),
		"stream cut short":           build(t, entry{name: prefix + "a", data: text, stream: deflate(t, text)[:10]}),
		"stored with other sizes": build(t, entry{name: prefix + "a", data: text, stored: true, header: func(h *zip.FileHeader) {
			h.UncompressedSize64++
		}}),
		"garbage for a stream":        build(t, entry{name: prefix + "a", data: text, stream: []byte("\xff\xff\xff\xff garbage")}),
		"local header, other name":    patch(good, localSignature, 0, localLen+len(prefix), []byte("z")),
		"local header, other method":  patch(good, localSignature, 0, 8, le.AppendUint16(nil, zip.Store)),
		"local header, other CRC":     patch(good, localSignature, 0, 14, []byte{1, 2, 3, 4}),
		"local header, other size":    patch(good, localSignature, 0, 22, le.AppendUint32(nil, 7)),
		"local header, descriptor":    patch(good, localSignature, 0, 6, le.AppendUint16(nil, flagDescriptor)),
		"directory, other CRC":        patch(good, directorySignature, 0, 16, []byte{1, 2, 3, 4}),
		"overlapping entries":         patch(good, directorySignature, 1, 42, le.AppendUint32(nil, 0)),
		"offset past the end":         patch(good, directorySignature, 1, 42, le.AppendUint32(nil, 1<<30)),
		"entry left out of directory": patch(patch(good, directorySignature, 1, 0, []byte{0}), endSignature, 0, 10, le.AppendUint16(nil, 1)),
	}
	z["descriptor that lies"] = patch(withDescriptors(t, text), descriptorSignature, 0, 4, []byte{9})
	return z
}

// bombs is a zip that inflates to more than the limit in honest steps.
func bombs(t testing.TB, stream []byte, size int) []byte {
	es := make([]entry, verify.MaxZip/size+1)
	zero := crc32.ChecksumIEEE(make([]byte, size))
	for i := range es {
		es[i] = entry{name: prefix + "f" + strings.Repeat("x", i), stream: stream, header: func(h *zip.FileHeader) {
			h.CRC32, h.UncompressedSize64 = zero, uint64(size)
		}}
	}
	return build(t, es...)
}

// withDescriptors is a zip as the go command writes it.
func withDescriptors(t testing.TB, text []byte) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range []string{"a.go", "b.go"} {
		f, err := w.Create(prefix + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestScanRefuses(t *testing.T) {
	for name, data := range hostileZips(t) {
		t.Run(name, func(t *testing.T) {
			z, err := scanBytes(data)
			if !errors.Is(err, ErrBadFile) {
				t.Fatalf("%v, %v", z, err)
			}
			if !strings.Contains(err.Error(), mod.String()) {
				t.Errorf("error does not name the zip: %v", err)
			}
		})
	}
}

func TestScanAccepts(t *testing.T) {
	text := []byte(strings.Repeat("package a\n", 50))
	zip64 := build(t, entry{name: prefix + "a.go", data: text})
	for name, data := range map[string][]byte{
		"descriptors":       withDescriptors(t, text),
		"sizes in headers":  zip64,
		"stored and empty":  build(t, entry{name: prefix + "a", data: text, stored: true}, entry{name: prefix + "b", stored: true}, entry{name: prefix + "c"}),
		"module directory":  build(t, entry{name: prefix, stored: true}, entry{name: prefix + "a", data: text}),
		"no file":           build(t),
		"case of the other": build(t, entry{name: prefix + "a/x", data: text}, entry{name: prefix + "a/Y", data: text}),
	} {
		t.Run(name, func(t *testing.T) {
			z, err := scanBytes(data)
			if err != nil {
				t.Fatal(err)
			}
			file := write(t, data)
			want, err := dirhash.HashZip(file, dirhash.Hash1)
			if err != nil || z.Root.H1() != want {
				t.Fatalf("root %s, dirhash says %s, %v", z.Root.H1(), want, err)
			}
			again := assemble(t, z)
			z2, err := scanBytes(again)
			if err != nil || z2.Root != z.Root {
				t.Fatalf("what is put together does not scan: %v", err)
			}
			if !bytes.Equal(assemble(t, z2), again) {
				t.Error("put together twice, it has other bytes")
			}
		})
	}
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "m.zip")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// assemble writes the zip of what was scanned through Writer, and checks that a
// Skeleton says the same of every byte.
func assemble(t testing.TB, z *Scanned) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	entries := make([]Entry, len(z.Listing.Files))
	streams := make([][]byte, len(entries))
	for i, f := range z.Listing.Files {
		st, _ := z.Stream(f.Sum)
		entries[i] = Entry{Name: f.Name, Raw: st.Raw}
		if !IsDir(f.Name) {
			var err error
			if streams[i], err = io.ReadAll(z.Open(st)); err != nil {
				t.Fatal(err)
			}
		}
		body, err := w.Add(entries[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := body.Write(streams[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := NewSkeleton(entries)
	if err != nil || s.Size() != int64(b.Len()) {
		t.Fatalf("skeleton of %d bytes, zip of %d, %v", s.Size(), b.Len(), err)
	}
	for off := int64(0); off < s.Size(); {
		seg := s.Find(off)
		part := seg.Header
		if part == nil {
			part = streams[seg.Entry]
		}
		if seg.Offset != off || seg.Size != int64(len(part)) || !bytes.Equal(part, b.Bytes()[off:off+seg.Size]) {
			t.Fatalf("segment at %d: %+v", off, seg)
		}
		off += seg.Size
	}
	return b.Bytes()
}

// TestDirectoryBudget: a directory over the limit is refused before it is read
// into memory.
func TestDirectoryBudget(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for range MaxDirectory/(46+60000) + 2 {
		if _, err := w.CreateRaw(&zip.FileHeader{Name: strings.Repeat("x", 60000)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := scanBytes(b.Bytes()); !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), "central directory") {
		t.Fatalf("%v", err)
	}
}

var errDisk = errors.New("disk on fire")

type brokenReader struct{}

func (b brokenReader) ReadAt([]byte, int64) (int, error) { return 0, errDisk }

// TestReadErrorIsNoBadFile: when the disk fails the zip is not to blame.
func TestReadErrorIsNoBadFile(t *testing.T) {
	_, err := Scan(context.Background(), brokenReader{}, 1000, mod)
	if !errors.Is(err, errDisk) || errors.Is(err, ErrBadFile) {
		t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	good := build(t, entry{name: prefix + "a", data: []byte("a")})
	if _, err := Scan(ctx, bytes.NewReader(good), int64(len(good)), mod); !errors.Is(err, context.Canceled) || errors.Is(err, ErrBadFile) {
		t.Fatalf("%v", err)
	}
}

// FuzzScan: whatever is accepted would also be accepted, with the same h1, by the
// go command's own code; and what is put together from it scans again.
func FuzzScan(f *testing.F) {
	text := []byte("package a\n")
	f.Add(withDescriptors(f, text))
	f.Add(build(f, entry{name: prefix + "a", data: text}, entry{name: prefix + "d/", stored: true}))
	for name, data := range hostileZips(f) {
		if len(data) < 1<<16 && name != "bomb, honest" {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := scanBytes(data)
		if err != nil {
			if !errors.Is(err, ErrBadFile) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		file := write(t, data)
		if _, err := modzip.CheckZip(mod, file); err != nil {
			t.Fatalf("accepted, but golang.org/x/mod/zip says: %v", err)
		}
		if h, err := dirhash.HashZip(file, dirhash.Hash1); err != nil || h != z.Root.H1() {
			t.Fatalf("root %s, dirhash says %s, %v", z.Root.H1(), h, err)
		}
		if again, err := scanBytes(assemble(t, z)); err != nil || again.Root != z.Root {
			t.Fatalf("put together: %v", err)
		}
	})
}

// FuzzVerifyRaw: a stream is accepted only for the content that it has.
func FuzzVerifyRaw(f *testing.F) {
	text := []byte(strings.Repeat("text", 100))
	f.Add(deflate(f, text), uint16(zip.Deflate), int64(len(text)), crc32.ChecksumIEEE(text))
	f.Add(text, uint16(zip.Store), int64(len(text)), crc32.ChecksumIEEE(text))
	f.Fuzz(func(t *testing.T, stream []byte, method uint16, size int64, crc uint32) {
		raw := Raw{Sum: verify.DigestOf(text), Method: method, CRC32: crc, CompressedSize: int64(len(stream)), Size: size}
		err := raw.Verify(context.Background(), bytes.NewReader(stream))
		if err != nil && !errors.Is(err, ErrBadFile) {
			t.Fatalf("an error of another kind: %v", err)
		}
		if err == nil && (size != int64(len(text)) || crc != crc32.ChecksumIEEE(text)) {
			t.Fatal("accepted with another size or CRC-32")
		}
	})
}
