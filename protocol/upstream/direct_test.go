package upstream_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// repos is a root of bare git repositories that the go command finds below
// https://example.test/acme/.
type repos struct {
	root string
	env  []string
}

func newRepos(t *testing.T) *repos {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed:", err)
	}
	r := &repos{root: t.TempDir()}
	r.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GOENV=off",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=url.file://" + r.root + "/.insteadOf",
		"GIT_CONFIG_VALUE_0=https://example.test/acme/",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.test",
		"GIT_AUTHOR_DATE=2024-03-01T12:00:00Z", "GIT_COMMITTER_DATE=2024-03-01T12:00:00Z",
	}
	return r
}

func (r *repos) git(t *testing.T, repo string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = filepath.Join(r.root, repo)
	cmd.Env = r.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files into a repository, which it makes at need, and tags them.
func (r *repos) commit(t *testing.T, repo string, files map[string]string, tags ...string) string {
	t.Helper()
	dir := filepath.Join(r.root, repo)
	if _, err := os.Stat(dir); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		r.git(t, repo, "init", "-q", "-b", "main")
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	r.git(t, repo, "add", "-A")
	r.git(t, repo, "commit", "-q", "--allow-empty", "-m", "change")
	for _, tag := range tags {
		r.git(t, repo, "tag", tag)
	}
	return r.git(t, repo, "rev-parse", "HEAD")
}

func (r *repos) upstreams(t *testing.T) *upstream.Upstreams {
	t.Helper()
	return parse(t, "direct", upstream.Options{Env: r.env})
}

func TestDirectFiles(t *testing.T) {
	r := newRepos(t)
	hash := r.commit(t, "x.git", map[string]string{"go.mod": "module example.test/acme/x.git\n", "x.go": "package x\n"}, "v1.0.0")
	u := r.upstreams(t)
	const mod = "example.test/acme/x.git"

	f, err := u.File(t.Context(), name(mod, "v1.0.0", verify.Info))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(f.Data), hash) || f.Source != "direct" {
		t.Errorf("info from %s without Origin: %s", f.Source, f.Data)
	}
	if len(f.Also) != 1 || f.Also[0].Name.Kind != verify.Mod || string(f.Also[0].Data) != "module example.test/acme/x.git\n" {
		t.Errorf("with the info came %+v, want its go.mod", f.Also)
	}
	z, err := u.File(t.Context(), name(mod, "v1.0.0", verify.Zip))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z.File)
	if err != nil || int64(len(data)) != z.Size || !strings.HasPrefix(string(data), "PK") {
		t.Errorf("zip: %d bytes of %d, %v", len(data), z.Size, err)
	}
	if len(z.Also) != 2 {
		t.Errorf("with the zip came %d files, want 2", len(z.Also))
	}
	if err := z.Close(); err != nil {
		t.Error(err)
	}
}

func TestDirectMissing(t *testing.T) {
	r := newRepos(t)
	r.commit(t, "x.git", map[string]string{"go.mod": "module example.test/acme/x.git\n"}, "v1.0.0")
	u := r.upstreams(t)
	for _, test := range []struct {
		name, mod, version string
		status             int
	}{
		{"no such version", "example.test/acme/x.git", "v1.2.3", http.StatusNotFound},
		{"no such major version", "example.test/acme/x.git/v2", "v2.0.0", http.StatusNotFound},
		// The go command does not say whether the repository or the network is missing.
		{"no such repository", "example.test/acme/y.git", "v1.0.0", http.StatusBadGateway},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, kind := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
				_, err := u.File(t.Context(), name(test.mod, test.version, kind))
				if got := protocol.StatusOf(err); got != test.status || !strings.Contains(err.Error(), test.mod+"@"+test.version) {
					t.Errorf("%s: status %d, %v; want %d", kind, got, err, test.status)
				}
			}
		})
	}
}

func TestDirectQueries(t *testing.T) {
	r := newRepos(t)
	const mod = "example.test/acme/x.git"
	r.commit(t, "x.git", map[string]string{"go.mod": "module example.test/acme/x.git\n"}, "v1.0.0", "v1.1.0-rc.1")
	hash := r.commit(t, "x.git", map[string]string{"x.go": "package x\n"}, "nightly")
	u := r.upstreams(t)
	for _, query := range []string{"main", "nightly", hash, hash[:12]} {
		t.Run(query, func(t *testing.T) {
			f, err := u.Query(t.Context(), mod, query)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(f.Name.Module.Version, "-"+hash[:12]) {
				t.Errorf("%s, want a pseudo-version of %s", f.Name, hash[:12])
			}
			t.Logf("%s", f.Data)
		})
	}
	list, err := u.List(t.Context(), mod)
	if err != nil || strings.Join(list.Tagged, " ") != "v1.0.0 v1.1.0-rc.1" {
		t.Errorf("list: %+v, %v", list, err)
	}
	latest, err := u.Latest(t.Context(), mod)
	if err != nil || latest.Name.Module.Version != "v1.0.0" {
		t.Errorf("latest: %+v, %v", latest, err)
	}
}

func TestDirectWithoutTags(t *testing.T) {
	r := newRepos(t)
	const mod = "example.test/acme/x.git"
	r.commit(t, "x.git", map[string]string{"x.go": "package x\n"})
	u := r.upstreams(t)
	list, err := u.List(t.Context(), mod)
	if err != nil || len(list.Tagged) != 0 || len(list.Pseudo) != 1 {
		t.Fatalf("list: %+v, %v", list, err)
	}
	f, err := u.File(t.Context(), name(mod, list.Pseudo[0], verify.Mod))
	if err != nil || string(f.Data) != "module example.test/acme/x.git\n" {
		t.Errorf("go.mod of a module without one: %+v, %v", f, err)
	}
}

// TestDirectTruth holds what the go command makes of tags: retracted versions
// stay listed, modules in subdirectories have tags of their own, and
// +incompatible is for modules without go.mod.
func TestDirectTruth(t *testing.T) {
	r := newRepos(t)
	const mod = "example.test/acme/x.git"
	r.commit(t, "x.git", map[string]string{"x.go": "package x\n"}, "v1.0.0", "v2.0.0")
	r.commit(t, "y.git", map[string]string{"go.mod": "module example.test/acme/y.git\n"}, "v1.0.0")
	r.commit(t, "y.git", map[string]string{
		"go.mod":     "module example.test/acme/y.git\n\nretract v1.0.0 // broken\n",
		"sub/go.mod": "module example.test/acme/y.git/sub\n",
	}, "v1.1.0", "sub/v0.3.0", "v1.2", "not-a-version")
	u := r.upstreams(t)
	for _, test := range []struct{ name, mod, versions, latest string }{
		{"incompatible", mod, "v1.0.0 v2.0.0+incompatible", "v2.0.0+incompatible"},
		{"retracted", "example.test/acme/y.git", "v1.0.0 v1.1.0", "v1.1.0"},
		{"subdirectory", "example.test/acme/y.git/sub", "v0.3.0", "v0.3.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := u.List(t.Context(), test.mod)
			if err != nil || strings.Join(list.Tagged, " ") != test.versions {
				t.Errorf("list: %+v, %v; want %s", list, err, test.versions)
			}
			latest, err := u.Latest(t.Context(), test.mod)
			if err != nil || latest.Name.Module.Version != test.latest {
				t.Errorf("latest: %+v, %v; want %s", latest, err, test.latest)
			}
			if also := strings.Join(others(latest), " "); also != "info mod" {
				t.Errorf("with latest came %q", also)
			}
		})
	}
	f, err := u.Query(t.Context(), mod, "v2.0.0")
	if err != nil || f.Name.Module.Version != "v2.0.0+incompatible" {
		t.Errorf("tag that needs incompatible: %+v, %v", f, err)
	}
}

// TestDirectClonesAreBounded fetches so often that the clones are looked at, and
// goes on working after they were removed.
func TestDirectClonesAreBounded(t *testing.T) {
	r := newRepos(t)
	r.commit(t, "x.git", map[string]string{"go.mod": "module example.test/acme/x.git\n"}, "v1.0.0")
	var log bytes.Buffer
	u := parse(t, "direct", upstream.Options{Env: r.env, Clones: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 33 {
		if _, err := u.File(t.Context(), name("example.test/acme/x.git", "v1.0.0", verify.Mod)); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "clones of direct are removed"); n != 1 {
		t.Errorf("removed %d times, want once; log:\n%s", n, &log)
	}
}
