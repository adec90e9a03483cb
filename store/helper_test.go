package store

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/goleak"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Badger and ristretto start these once for the whole process.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
	)
}

var testKey = func() crypto.PrivKey {
	k, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

// smallOptions need little of a disk.
func smallOptions() Options { return Options{Reserve: 1 << 20, ScrubRate: -1} }

func openTest(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

type testFile struct {
	name string
	data []byte
}

// makeZip writes a module zip as the go command does, but for the files' order,
// and but for large files, which it packs without trying hard: to compress noise
// under the race detector takes longer than all else.
func makeZip(t testing.TB, m module.Version, files ...testFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	level := flate.DefaultCompression
	w.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, level) })
	for _, f := range files {
		if level = flate.DefaultCompression; len(f.data) >= 512<<10 {
			level = flate.NoCompression
		}
		fw, err := w.Create(m.Path + "@" + m.Version + "/" + f.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fw.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// seal signs a record; data is nil for a zip.
func sealRecord(t testing.TB, m module.Version, kind verify.Kind, digest verify.Digest, data []byte, size int64) *verify.Signed {
	t.Helper()
	signed, err := verify.Seal(&verify.Record{
		Mesh: "test", Name: verify.Name{Module: m, Kind: kind}, Digest: digest, Data: data, Size: size,
		Fetched: time.Unix(1_700_000_000, 0).UTC(), Office: "berlin", Source: "direct", Vouch: verify.Vouch{By: verify.ByMember},
	}, testKey)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func infoRecord(t testing.TB, m module.Version, extra string) *verify.Signed {
	data := fmt.Appendf(nil, `{"Version":%q%s}`, m.Version, extra)
	return sealRecord(t, m, verify.Info, verify.DigestOf(data), data, int64(len(data)))
}

func modRecord(t testing.TB, m module.Version, extra string) *verify.Signed {
	data := []byte("module " + m.Path + "\n" + extra)
	return sealRecord(t, m, verify.Mod, verify.DigestMod(data), data, int64(len(data)))
}

func zipRecord(t testing.TB, m module.Version, root verify.Digest, size int64) *verify.Signed {
	return sealRecord(t, m, verify.Zip, root, nil, size)
}

// stageZip scans and stages a zip, for the caller to commit and close.
func stageZip(t testing.TB, s *Store, m module.Version, data []byte) (*Scanned, *Staged) {
	t.Helper()
	ctx := context.Background()
	z, err := ScanZip(ctx, bytes.NewReader(data), int64(len(data)), m)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.StageZip(ctx, z)
	if err != nil {
		t.Fatal(err)
	}
	return z, st
}

// putZip scans, stages and commits a zip.
func putZip(t testing.TB, s *Store, m module.Version, data []byte) verify.Digest {
	t.Helper()
	z, st := stageZip(t, s, m, data)
	defer st.Close()
	if err := s.Commit(context.Background(), zipRecord(t, m, z.Root, z.Size), st); err != nil {
		t.Fatal(err)
	}
	return z.Root
}

func readZip(t testing.TB, s *Store, root verify.Digest) []byte {
	t.Helper()
	z, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != z.Size() {
		t.Fatalf("zip has %d bytes, Size says %d", len(data), z.Size())
	}
	return data
}

// contents unpacks a zip in memory.
func contents(t testing.TB, data []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]string)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		m[f.Name] = string(b)
	}
	return m
}

// noise is data that does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return b
}
