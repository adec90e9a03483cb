package dashboard_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/dashboard"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// patience bounds every wait of a test; a quiet machine needs milliseconds.
const patience = 60 * time.Second

// hostile is the name of an office that would like to be HTML.
const hostile = `<img src=x onerror=stolen=1>"'&`

// many is how many versions of a module there are: more than two pages of them.
const many = 120

// pair are two offices, one of them hostile, with the pages of the other.
type pair struct {
	*testnet.Net
	here, there *testnet.Office
	url         string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	var archive strings.Builder
	for i := range many {
		fmt.Fprintf(&archive, "-- example.test/many@v1.0.%d/go.mod --\nmodule example.test/many\n", i)
	}
	archive.WriteString("-- example.test/other@v1.0.0/go.mod --\nmodule example.test/other\n-- example.test/other@v1.0.0/a&b.txt --\nx\n")
	w := new(outside.World)
	if err := w.AddArchive(archive.String()); err != nil {
		t.Fatal(err)
	}
	up, err := outside.NewServer(w)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{Net: testnet.New(t)}
	t.Cleanup(up.Stop)
	p.here = p.Found("berlin", node.Config{Upstream: up.URL()})
	p.there = p.Join(hostile, p.here, node.Config{Upstream: "off"})
	p.Settle()
	ctx, end := context.WithCancel(context.Background())
	pages := dashboard.New(p.here.Node(), dashboard.Options{Docs: "https://docs.example.test/"})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		both, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)() // as a node that ends
		pages.ServeHTTP(w, r.WithContext(both))
	}))
	t.Cleanup(server.Close)
	t.Cleanup(end)
	p.url = server.URL + dashboard.Path
	return p
}

// ask has an office serve a file.
func (p *pair) ask(t *testing.T, o *testnet.Office, path string) {
	t.Helper()
	if status, body, err := o.Get(path); err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d, %v: %s", path, status, err, body)
	}
}

// page fetches a page and wants a status.
func (p *pair) page(t *testing.T, status int, path string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Get(p.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Fatalf("%s: status %d, want %d, %v: %s", path, resp.StatusCode, status, err, body)
	}
	return resp, string(body)
}
