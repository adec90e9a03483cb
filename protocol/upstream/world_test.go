package upstream_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	modA    = "example.test/a"
	infoA   = `{"Version":"v1.0.0","Time":"2024-03-01T12:00:00Z"}`
	gomodA  = "module example.test/a\n"
	pseudo1 = "v0.0.0-20230301120000-0123456789ab"
	pseudo2 = "v0.0.0-20240301120000-0123456789ab"
)

// world is an upstream proxy under a test's control. It counts what is asked.
type world struct {
	*httptest.Server
	mu       sync.Mutex
	handlers map[string]http.HandlerFunc // by path; guarded by mu
	asked    []string                    // guarded by mu
	all      http.HandlerFunc            // if set, answers everything
}

func newWorld(t *testing.T) *world {
	w := &world{handlers: make(map[string]http.HandlerFunc)}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	w.text("/example.test/a/@v/v1.0.0.info", infoA)
	w.text("/example.test/a/@v/v1.0.0.mod", gomodA)
	w.text("/example.test/a/@v/v1.0.0.zip", "PK zip")
	w.text("/example.test/a/@v/list", "v1.0.0\n")
	return w
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked = append(w.asked, r.URL.EscapedPath())
	h := w.handlers[r.URL.Path]
	w.mu.Unlock()
	switch {
	case w.all != nil:
		w.all(rw, r)
	case h != nil:
		h(rw, r)
	default:
		http.Error(rw, "not found: nothing at "+r.URL.Path, http.StatusNotFound)
	}
}

func (w *world) handle(path string, h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers[path] = h
}

func (w *world) text(path, text string) {
	w.handle(path, func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, text) })
}

// status answers everything with an error.
func (w *world) status(code int) *world {
	w.all = func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "so it is", code) }
	return w
}

// count tells how often paths that end in suffix were asked for.
func (w *world) count(suffix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, path := range w.asked {
		if strings.HasSuffix(path, suffix) {
			n++
		}
	}
	return n
}

func (w *world) host() string { return strings.TrimPrefix(w.URL, "http://") }

// parse makes Upstreams in a directory that must be empty afterwards.
func parse(t *testing.T, list string, o upstream.Options) *upstream.Upstreams {
	t.Helper()
	o.TempDir = t.TempDir()
	if o.Env == nil {
		o.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GOENV=off"}
	}
	u, err := upstream.Parse(list, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
		left, err := os.ReadDir(o.TempDir)
		if err != nil || len(left) != 0 {
			t.Errorf("left behind in the temporary directory: %v, %v", left, err)
		}
	})
	return u
}

func name(mod, version string, kind verify.Kind) verify.Name {
	return verify.Name{Module: module.Version{Path: mod, Version: version}, Kind: kind}
}

// others returns the kinds of the files that came along, sorted.
func others(f *upstream.Fetched) []string {
	var kinds []string
	for _, also := range f.Also {
		kinds = append(kinds, string(also.Name.Kind))
	}
	slices.Sort(kinds)
	return kinds
}

// passing is an office that holds nothing.
type passing struct {
	protocol.Backend
	u *upstream.Upstreams
}

func answer(f *upstream.Fetched, err error) (*protocol.Answer, error) {
	switch {
	case err != nil:
		return nil, err
	case f.File != nil:
		return &protocol.Answer{Content: f.File, Closer: f}, nil
	}
	return &protocol.Answer{Data: f.Data}, nil
}

func (b passing) File(ctx context.Context, n verify.Name, _ protocol.Options) (*protocol.Answer, error) {
	return answer(b.u.File(ctx, n))
}

func (b passing) Query(ctx context.Context, path, query string, _ protocol.Options) (*protocol.Answer, error) {
	return answer(b.u.Query(ctx, path, query))
}

func (b passing) Latest(ctx context.Context, path string, _ protocol.Options) (*protocol.Answer, error) {
	return answer(b.u.Latest(ctx, path))
}

func (b passing) List(ctx context.Context, path string, _ protocol.Options) (*protocol.Answer, error) {
	list, err := b.u.List(ctx, path)
	if err != nil {
		return nil, err
	}
	return &protocol.Answer{Data: protocol.EncodeList(list.Tagged)}, nil
}

func (b passing) SumDB(ctx context.Context, name, sub string, _ protocol.Options) (*protocol.Answer, error) {
	data, err := b.u.SumDB(ctx, name, sub)
	return &protocol.Answer{Data: data}, err
}
