package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// writeZip serves a zip as the handler does.
func writeZip(t *testing.T, s *Store, root verify.Digest) []byte {
	t.Helper()
	z, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var b bytes.Buffer
	if _, err := z.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// hotFiles are the whole zips that stand in files.
func hotFiles(t *testing.T, s *Store) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.spool(), "zip-*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestZipAskedForAgainComesFromFile(t *testing.T) {
	now := time.Now()
	o := smallOptions()
	o.Clock = func() time.Time { return now }
	s := openTest(t, t.TempDir(), o)
	s.hot.space = func() (int64, error) { return 1 << 40, nil }
	large := module.Version{Path: "example.test/large", Version: "v1.0.0"}
	root := putZip(t, s, large, makeZip(t, large, testFile{"a.bin", noise(3 << 20)}, testFile{"go.mod", []byte("module example.test/large\n")}))
	want := readZip(t, s, root)
	for _, step := range []struct {
		name  string
		files int
	}{{"first time", 0}, {"second time", 0}, {"third time", 1}, {"from the file", 1}} {
		if got := writeZip(t, s, root); !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes that are not the zip", step.name, len(got))
		}
		if got := hotFiles(t, s); len(got) != step.files {
			t.Errorf("%s: files %q, want %d", step.name, got, step.files)
		}
	}
	name := hotFiles(t, s)[0]
	if err := os.WriteFile(name, bytes.ToUpper(want), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := writeZip(t, s, root); bytes.Equal(got, want) {
		t.Fatal("the file is not what is served")
	}
	now = now.Add(2 * hotAge)
	if got := writeZip(t, s, root); !bytes.Equal(got, want) {
		t.Error("an old file is not put together anew")
	}
	if got := hotFiles(t, s); len(got) != 1 || got[0] == name {
		t.Errorf("files %q: want one, and not %s", got, name)
	}
	if err := s.evict(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if got := hotFiles(t, s); len(got) != 0 {
		t.Errorf("files %q stay after the zip was dropped", got)
	}
}

func TestHotFilesLeaveSpaceAlone(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	s.hot.space = func() (int64, error) { return maxHotBytes, nil }
	m := module.Version{Path: "example.test/large", Version: "v1.0.0"}
	root := putZip(t, s, m, makeZip(t, m, testFile{"a.bin", noise(1 << 20)}))
	for range oftenWritten + 2 {
		writeZip(t, s, root)
	}
	if got := hotFiles(t, s); len(got) != 0 {
		t.Errorf("files %q on a disk that has little space left", got)
	}
}

// shortWriter fails after some bytes, like a client that goes away.
type shortWriter struct{ left int }

func (w *shortWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, os.ErrClosed
	}
	return len(p), nil
}

func TestClientThatGoesAwayLeavesNoHalfFile(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	s.hot.space = func() (int64, error) { return 1 << 40, nil }
	m := module.Version{Path: "example.test/large", Version: "v1.0.0"}
	root := putZip(t, s, m, makeZip(t, m, testFile{"a.bin", noise(3 << 20)}))
	for range oftenWritten {
		writeZip(t, s, root)
	}
	want := readZip(t, s, root)
	z, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.WriteTo(&shortWriter{1 << 20}); err == nil {
		t.Error("no error of a writer that failed")
	}
	if err := z.Close(); err != nil {
		t.Error(err)
	}
	if got := hotFiles(t, s); len(got) != 0 {
		t.Errorf("files %q of a zip that was not served whole", got)
	}
	if got := writeZip(t, s, root); !bytes.Equal(got, want) {
		t.Error("not the zip afterwards")
	}
}
