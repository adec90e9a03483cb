package upstream_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// TestOnlyLargeZipsNeedAFile: others stay in memory, but for who wants a file.
func TestOnlyLargeZipsNeedAFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   int
		length bool // the upstream says how much comes
		files  int
	}{
		{"small", 1000, true, 0},
		{"small, of unknown length", 1000, false, 0},
		{"as large as stays in memory", 1 << 20, true, 0},
		{"larger", 1<<20 + 1, true, 1},
		{"larger, of unknown length", 3 << 20, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := make([]byte, c.size)
			rand.NewChaCha8([32]byte{1}).Read(want)
			w := newWorld(t)
			w.all = func(rw http.ResponseWriter, r *http.Request) {
				if c.length {
					http.ServeContent(rw, r, "", time.Unix(0, 0), bytes.NewReader(want))
					return
				}
				rw.(http.Flusher).Flush()
				rw.Write(want)
			}
			dir := t.TempDir()
			u, err := upstream.Parse(w.URL, upstream.Options{TempDir: dir, Env: []string{"GOENV=off"}})
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			f, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Zip))
			if err != nil {
				t.Fatal(err)
			}
			wantFiles(t, dir, c.files)
			if got, err := io.ReadAll(io.NewSectionReader(f.Content(), 0, f.Size)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
			}
			path, err := f.Path(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("file of %d of %d bytes, %v", len(got), len(want), err)
			}
			wantFiles(t, dir, 1)
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			wantFiles(t, dir, 0)
		})
	}
}

func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	if names, err := filepath.Glob(filepath.Join(dir, "fetch-*")); err != nil || len(names) != want {
		t.Errorf("files %q, %v; want %d", names, err, want)
	}
}
