package protocol_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

// BenchmarkWarm compares the handler with http.FileServer over the same
// contents, both behind the same server on loopback. The backend is a map, so
// that what is measured is the handler.
func BenchmarkWarm(b *testing.B) {
	backend := newMemory(b)
	big := make([]byte, 4<<20)
	rand.Read(big)
	zip := verify.Name{Module: module.Version{Path: "example.test/mod", Version: "v1.0.0"}, Kind: verify.Zip}
	backend.files[zip.String()] = big

	dir := b.TempDir()
	for path, data := range map[string][]byte{
		"v1.0.0.info": backend.files["example.test/mod@v1.0.0.info"],
		"v1.0.0.mod":  backend.files["example.test/mod@v1.0.0.mod"],
		"v1.0.0.zip":  big,
		"list":        []byte(backend.answers["example.test/mod@list"]),
	} {
		path = filepath.Join(dir, "example.test", "mod", "@v", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for _, file := range []string{"v1.0.0.info", "v1.0.0.mod", "list", "v1.0.0.zip"} {
		h := protocol.NewHandler(backend, protocol.HandlerOptions{})
		b.Run(file+"/handler", func(b *testing.B) { get(b, h, "/example.test/mod/@v/"+file) })
		if file == "v1.0.0.zip" {
			backend.stream = true
			b.Run(file+"/handler from Stream", func(b *testing.B) { get(b, h, "/example.test/mod/@v/"+file) })
			backend.stream, backend.dir = false, filepath.Join(dir, "example.test", "mod", "@v")
			b.Run(file+"/handler from a file", func(b *testing.B) { get(b, h, "/example.test/mod/@v/"+file) })
		}
		b.Run(file+"/FileServer", func(b *testing.B) {
			get(b, http.FileServer(http.Dir(dir)), "/example.test/mod/@v/"+file)
		})
	}
}

func get(b *testing.B, h http.Handler, path string) {
	s := httptest.NewUnstartedServer(nil)
	s.Config = protocol.NewServer(h, nil)
	s.Start()
	defer s.Close()
	client := s.Client()
	b.ReportAllocs()
	for b.Loop() {
		resp, err := client.Get(s.URL + path)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status, err)
		}
		b.SetBytes(n)
	}
}

// BenchmarkServeHTTP measures the handler alone, without a connection.
func BenchmarkServeHTTP(b *testing.B) {
	h := protocol.NewHandler(newMemory(b), protocol.HandlerOptions{})
	req := httptest.NewRequest(http.MethodGet, "/example.test/mod/@v/v1.0.0.info", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		w.Body = new(bytes.Buffer)
		h.ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
