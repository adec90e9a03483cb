//go:build unix

package upstream_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// TestOtherVCS fetches from Mercurial, Subversion and Bazaar, over what takes the place
// of ssh: a script that runs the server's side in the directory of repositories.
// Their attempts to use https end at an HTTP proxy on loopback that refuses.
func TestOtherVCS(t *testing.T) {
	refuse := httptest.NewServer(http.NotFoundHandler())
	defer refuse.Close()
	host, port, _ := strings.Cut(strings.TrimPrefix(refuse.URL, "http://"), ":")
	for _, test := range []struct {
		vcs, server string
		setup       func(t *testing.T, root, home string, env []string)
		latest      string // prefix of the newest version
		versions    string
	}{
		{"hg", "hg", hgRepository, "v1.0.0", "v1.0.0"},
		{"svn", "svnserve", svnRepository, "v0.0.0-", ""}, // the go command takes no versions from Subversion
		{"bzr", "bzr", bzrRepository, "v1.0.0", "v1.0.0"},
	} {
		t.Run(test.vcs, func(t *testing.T) {
			for _, tool := range []string{test.vcs, test.server} {
				if _, err := exec.LookPath(tool); err != nil {
					t.Skip("not installed:", err)
				}
			}
			root, home := t.TempDir(), t.TempDir()
			ssh := program(t, "cd "+root+"\nshift\nexec sh -c \"$*\"\n")
			bzrSSH := program(t, "[ \"$1\" = -V ] && echo OpenSSH_9 && exit\nexec bzr serve --inet --directory="+root+"\n")
			write(t, filepath.Join(home, "hgrc"), "[ui]\nusername=a <a@example.test>\nssh="+ssh+"\n[http_proxy]\nhost="+host+":"+port+"\nalways=True\n")
			write(t, filepath.Join(home, ".subversion", "servers"), "[global]\nhttp-proxy-host="+host+"\nhttp-proxy-port="+port+"\n")
			env := []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GOENV=off", "LC_ALL=C.UTF-8", "HGRCPATH=" + filepath.Join(home, "hgrc"),
				"BZR_SSH=" + bzrSSH, "BRZ_SSH=" + bzrSSH, "SVN_SSH=" + program(t, "shift\nexec svnserve -t -r "+root+"\n"), "GOVCS=*:all", "HTTPS_PROXY=" + refuse.URL, "HTTP_PROXY=" + refuse.URL,
			}
			test.setup(t, root, home, env)
			mod := "example.test/acme/x." + test.vcs
			u := parse(t, "direct", upstream.Options{Env: env})
			checkFirstVersion(t, u, mod, test.latest, test.versions)
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, dir string, env []string, words ...string) {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", words, err, out)
	}
}

func hgRepository(t *testing.T, root, _ string, env []string) {
	dir := filepath.Join(root, "acme", "x")
	write(t, filepath.Join(dir, "go.mod"), "module example.test/acme/x.hg\n")
	command(t, dir, env, "hg", "init")
	command(t, dir, env, "hg", "commit", "-A", "-m", "first", "-d", "2024-03-01 12:00:00 +0000")
	command(t, dir, env, "hg", "tag", "v1.0.0", "-d", "2024-03-01 12:00:01 +0000")
}

func svnRepository(t *testing.T, root, home string, env []string) {
	repo, files := filepath.Join(root, "acme", "x"), filepath.Join(home, "files")
	if err := os.MkdirAll(filepath.Dir(repo), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(files, "go.mod"), "module example.test/acme/x.svn\n")
	command(t, root, env, "svnadmin", "create", repo)
	command(t, root, env, "svn", "import", "-q", "-m", "first", files, "file://"+repo)
}

// bzrRepository makes a branch, and a stand-in for ssh that serves it. The first
// thing that bzr asks such a program is what it is.
func bzrRepository(t *testing.T, root, home string, env []string) {
	dir := filepath.Join(root, "acme", "x")
	write(t, filepath.Join(dir, "go.mod"), "module example.test/acme/x.bzr\n")
	command(t, dir, env, "bzr", "init", "-q")
	command(t, dir, env, "bzr", "add", "-q")
	command(t, dir, env, "bzr", "whoami", "--branch", "a <a@example.test>")
	command(t, dir, env, "bzr", "commit", "-q", "-m", "first", "--commit-time=2024-03-01 12:00:00 +0000")
	command(t, dir, env, "bzr", "tag", "-q", "v1.0.0")
}

// TestFossil fetches from a Fossil repository that a vanity path leads to, over
// http, as GOINSECURE allows.
func TestFossil(t *testing.T) {
	fossil, err := exec.LookPath("fossil")
	if err != nil {
		t.Skip("not installed:", err)
	}
	const mod = "example.test/acme/x"
	root, home := t.TempDir(), t.TempDir()
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "USER=a", "GOENV=off", "GOVCS=*:all", "GOINSECURE=example.test/*"}
	repo, files := filepath.Join(root, "x.fossil"), filepath.Join(home, "files")
	write(t, filepath.Join(files, "go.mod"), "module "+mod+"\n")
	command(t, root, env, "fossil", "init", repo)
	command(t, files, env, "fossil", "open", "--force", repo)
	command(t, files, env, "fossil", "add", "go.mod")
	command(t, files, env, "fossil", "commit", "-m", "first", "--no-warnings")
	cgiScript := filepath.Join(root, "cgi")
	if err := os.WriteFile(cgiScript, []byte("#!"+fossil+"\nrepository: "+repo+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	serve := &cgi.Handler{Path: cgiScript, Root: "/x", Env: []string{"HOME=" + home, "USER=a"}, Logger: log.New(io.Discard, "", 0)}
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("go-get") {
			fmt.Fprintf(rw, `<meta name="go-import" content="%s fossil %s/x">`, mod, s.URL)
			return
		}
		serve.ServeHTTP(rw, r)
	}))
	defer s.Close()
	refuse := httptest.NewServer(http.NotFoundHandler())
	defer refuse.Close()
	u := parse(t, "direct", upstream.Options{Env: append(env, "HTTP_PROXY="+s.URL, "HTTPS_PROXY="+refuse.URL, "NO_PROXY=127.0.0.1")})
	checkFirstVersion(t, u, mod, "v0.0.0-", "") // the go command takes no versions from Fossil
}

// checkFirstVersion holds the versions of a module, and that the latest comes
// with all its files.
func checkFirstVersion(t *testing.T, u *upstream.Upstreams, mod, latest, versions string) {
	t.Helper()
	list, err := u.List(t.Context(), mod)
	if err != nil || strings.Join(list.Tagged, " ") != versions {
		t.Fatalf("list: %+v, %v", list, err)
	}
	info, err := u.Latest(t.Context(), mod)
	if err != nil || !strings.HasPrefix(info.Name.Module.Version, latest) {
		t.Fatalf("latest: %+v, %v", info, err)
	}
	f, err := u.File(t.Context(), name(mod, info.Name.Module.Version, verify.Zip))
	if err != nil {
		t.Fatal(err)
	}
	if also := strings.Join(others(f), " "); also != "info mod" || f.Size == 0 {
		t.Errorf("zip of %d bytes, with %q", f.Size, also)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
