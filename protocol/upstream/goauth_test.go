//go:build unix

package upstream_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// guarded is a proxy that wants a header, and counts who comes without.
type guarded struct {
	*httptest.Server
	header, value string
	refused       int
}

func newGuarded(t *testing.T, header, value string) *guarded {
	g := &guarded{header: header, value: value}
	g.Server = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get(g.header) != g.value {
			g.refused++
			http.Error(rw, "who are you?", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(rw, gomodA)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *guarded) fetch(t *testing.T, env ...string) error {
	env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir())
	u := parse(t, g.URL+"/go", upstream.Options{Env: env, Transport: g.Client().Transport})
	for range 2 { // the second time the credentials are known
		if _, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod)); err != nil {
			return err
		}
	}
	return nil
}

func TestGoAuthCommand(t *testing.T) {
	for _, test := range []struct {
		name, script string
		refused      int // requests without the right header
		ok           bool
	}{
		{"known from the start", `printf 'https://HOST\n\nX-Token: t\n\n'`, 0, true},
		{"for the path", `printf 'https://HOST/go\nhttps://other.test\n\nX-Token: t\n\n'`, 0, true},
		{"only for a URL", `[ "$1" = https://HOST/go/example.test/a/@v/v1.0.0.mod ] && printf 'https://HOST\n\nX-Token: t\n\n'; true`, 1, true},
		{"after having seen the refusal", `grep -q '401 Unauthorized' && printf 'https://HOST\n\nX-Token: t\n\n'; true`, 1, true},
		{"for another path", `printf 'https://HOST/other\n\nX-Token: t\n\n'`, 1, false},
		{"for another host", `printf 'https://other.test\n\nX-Token: t\n\n'`, 1, false},
		{"wrong ones", `printf 'https://HOST\n\nX-Token: f\n\n'`, 1, false},
		{"program fails", `echo sorry >&2; exit 1`, 1, false},
		{"output without end", `head -c 9000000 /dev/zero`, 1, false},
		{"malformed output", `echo hello`, 1, false},
		{"over http", `printf 'http://HOST\n\nX-Token: t\n\n'`, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGuarded(t, "X-Token", "t")
			script := strings.ReplaceAll(test.script, "HOST", strings.TrimPrefix(g.URL, "https://"))
			err := g.fetch(t, "GOAUTH='"+program(t, script)+"'")
			if (err == nil) != test.ok || g.refused != test.refused {
				t.Errorf("%v, refused %d times; want success: %v, refused %d times", err, g.refused, test.ok, test.refused)
			}
			if err != nil && protocol.StatusOf(err) != http.StatusForbidden {
				t.Errorf("status %d, want 403", protocol.StatusOf(err))
			}
		})
	}
}

func TestGoAuthGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed:", err)
	}
	g := newGuarded(t, "Authorization", "Basic YW5uYTpzM2NyZXQ=") // anna:s3cret
	dir := t.TempDir()
	helper := program(t, "[ \"$1\" = get ] && printf 'username=anna\\npassword=s3cret\\n'")
	write(t, filepath.Join(dir, ".git", "HEAD"), "ref: refs/heads/main\n")
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"}
	command(t, dir, env, "git", "init", "-q")
	command(t, dir, env, "git", "config", "credential.helper", helper)
	if err := g.fetch(t, "GOAUTH=git "+dir, "GIT_CONFIG_NOSYSTEM=1"); err != nil || g.refused != 1 {
		t.Errorf("%v, refused %d times; want success after 1", err, g.refused)
	}
}

// TestGoAuthGitTellsTheHelper holds that a helper hears what its password was worth,
// once, as git's own commands tell it.
func TestGoAuthGitTellsTheHelper(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed:", err)
	}
	for _, test := range []struct{ name, password, told string }{
		{"right one", "s3cret", "get store"},
		{"wrong one", "guess", "get erase"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGuarded(t, "Authorization", "Basic YW5uYTpzM2NyZXQ=") // anna:s3cret
			dir, told := t.TempDir(), filepath.Join(t.TempDir(), "told")
			helper := program(t, "echo \"$1\" >>"+told+"\n[ \"$1\" = get ] && printf 'username=anna\\npassword="+test.password+"\\n'\ncat >/dev/null\n")
			env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"}
			command(t, dir, env, "git", "init", "-q")
			command(t, dir, env, "git", "config", "credential.helper", helper)
			err := g.fetch(t, "GOAUTH=git "+dir, "GIT_CONFIG_NOSYSTEM=1")
			if (err == nil) != (test.password == "s3cret") {
				t.Error(err)
			}
			got, err := os.ReadFile(told)
			if err != nil || strings.Join(strings.Fields(string(got)), " ") != test.told {
				t.Errorf("the helper was told %q, %v; want %q", got, err, test.told)
			}
		})
	}
}

func TestGoAuthRefuses(t *testing.T) {
	for _, goauth := range []string{"git", "git relative", "netrc;;off", "'quote", ";"} {
		if _, err := upstream.Parse("https://a.test", upstream.Options{Env: []string{"GOAUTH=" + goauth}}); err == nil || !strings.Contains(err.Error(), "GOAUTH="+goauth) {
			t.Errorf("%q: %v", goauth, err)
		}
	}
	path := filepath.Join(t.TempDir(), "netrc")
	if _, err := upstream.Parse("https://a.test", upstream.Options{Env: []string{"NETRC=" + filepath.Dir(path)}}); err == nil {
		t.Error("a directory as .netrc: no error")
	}
}

// TestCommandHeadersStayWithTheirHost has a proxy that redirects to another host.
func TestCommandHeadersStayWithTheirHost(t *testing.T) {
	var leaked string
	other := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		leaked = r.Header.Get("X-Token")
		fmt.Fprint(rw, gomodA)
	}))
	defer other.Close()
	g := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, other.URL+r.URL.Path, http.StatusFound)
	}))
	defer g.Close()
	token := program(t, "printf '"+g.URL+"\\n\\nX-Token: t\\n\\n'")
	u := parse(t, g.URL, upstream.Options{Env: []string{"PATH=" + os.Getenv("PATH"), "GOAUTH=" + token}, Transport: g.Client().Transport})
	if _, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod)); err != nil {
		t.Fatal(err)
	}
	if leaked != "" {
		t.Errorf("another host was sent %q", leaked)
	}
}
