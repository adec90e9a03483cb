package upstream_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// TestRepositoryDown has the real go command and git find a module whose host answers
// while that of its repository is down: that is no "not found" for any question.
func TestRepositoryDown(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed:", err)
	}
	const mod = "example.test/vanity"
	var down atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Get("go-get") == "1":
			fmt.Fprintf(w, `<meta name="go-import" content="%s git http://example.test/repo">`, mod)
		case strings.HasPrefix(r.URL.Path, "/repo/"):
			down.Store(true)
			http.Error(w, "down for maintenance", http.StatusServiceUnavailable)
		default: // a tunnel to the same by https
			http.Error(w, "none", http.StatusBadGateway)
		}
	}))
	defer s.Close()
	u := parse(t, "direct", upstream.Options{Env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GOENV=off", "GOINSECURE=example.test", "GOVCS=*:all",
		"HTTP_PROXY=" + s.URL, "HTTPS_PROXY=" + s.URL, "http_proxy=" + s.URL, "https_proxy=" + s.URL,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
	}})
	for _, kind := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		_, err := u.File(t.Context(), name(mod, "v1.0.0", kind))
		if protocol.StatusOf(err) != http.StatusBadGateway {
			t.Errorf(".%s: status %d, %v; want 502", kind, protocol.StatusOf(err), err)
		}
	}
	if _, err := u.Query(t.Context(), mod, "main"); protocol.StatusOf(err) != http.StatusBadGateway {
		t.Errorf("query: status %d, %v; want 502", protocol.StatusOf(err), err)
	}
	if !down.Load() {
		t.Error("nobody asked for the repository")
	}
}
