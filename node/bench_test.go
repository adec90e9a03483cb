package node_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// BenchmarkWarm compares what an office holds with the same files behind a plain
// http.FileServer.
func BenchmarkWarm(b *testing.B) {
	w := new(outside.World)
	if err := w.AddArchive(archive); err != nil {
		b.Fatal(err)
	}
	up, err := outside.NewServer(w)
	if err != nil {
		b.Fatal(err)
	}
	defer up.Stop()
	o := testnet.New(b).Found("a", node.Config{Upstream: up.URL()})
	dir := b.TempDir()
	files := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer files.Close()
	for _, file := range []string{"v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip", "list"} {
		path := tagged + file
		body := o.MustGet(path)
		if err := os.MkdirAll(filepath.Join(dir, tagged), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), body, 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(file+"/office", func(b *testing.B) { get(b, o.URL()+path, len(body)) })
		b.Run(file+"/fileserver", func(b *testing.B) { get(b, files.URL+path, len(body)) })
	}
}

func get(b *testing.B, url string, size int) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Get(url)
			if err != nil {
				b.Error(err)
				return
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || n != int64(size) {
				b.Errorf("%s: status %d, %d bytes, %v", url, resp.StatusCode, n, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}
