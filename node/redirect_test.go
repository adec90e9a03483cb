package node_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet"
)

// TestRedirectTellsNoPassword: clients are sent to the first proxy of the upstreams, and
// not told with which credentials this office asks it.
func TestRedirectTellsNoPassword(t *testing.T) {
	filter := filepath.Join(t.TempDir(), "filter")
	if err := os.WriteFile(filter, []byte("D example.test/elsewhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, upstream := range map[string]string{
		"with credentials":    "https://office:secret@proxy.test/go/,direct",
		"behind another":      "file:///nonexistent | https://office:secret@proxy.test/go",
		"without its scheme":  "proxy.test/go,off",
		"with a query, a tag": "https://office:secret@proxy.test/go?key=secret#secret",
	} {
		t.Run(name, func(t *testing.T) {
			c := node.Config{Upstream: upstream}
			c.Policy.FilterFile = filter
			o := testnet.New(t).Found("one", c)
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			defer client.CloseIdleConnections()
			for _, path := range []string{"/example.test/elsewhere/@v/v1.0.0.zip", "/example.test/elsewhere/@v/list"} {
				resp, err := client.Get(o.URL() + path)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				if got, want := resp.Header.Get("Location"), "https://proxy.test/go"+path; got != want || strings.Contains(string(body), "secret") {
					t.Errorf("%s: status %d to %q, want %q: %s", path, resp.StatusCode, got, want, body)
				}
			}
		})
	}
}
