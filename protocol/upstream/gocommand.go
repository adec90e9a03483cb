package upstream

import (
	"context"
	"errors"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshproxy/meshproxy/protocol"
)

// passed are the variables that version control, credentials, proxies and
// GOPRIVATE rules depend on. Others do not reach the go command: what it makes
// must depend on nothing else.
var passed = []string{
	"HOME", "USER", "LOGNAME", "PATH", "SHELL", "LANG", "TZ", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "SYSTEMROOT", "COMSPEC", "PATHEXT",
	"NETRC", "GOAUTH", "GOVCS", "GOINSECURE", "GOPRIVATE", "GOENV", "GOROOT", "GODEBUG",
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
	"GNUPGHOME", "KRB5CCNAME", "KRB5_CONFIG", "DBUS_SESSION_BUS_ADDRESS", "EMAIL",
}

// passedPrefixes are those of variables of version control systems and of what
// they run.
var passedPrefixes = []string{"GIT_", "SSH_", "HG", "SVN_", "BZR_", "BRZ_", "FOSSIL_", "XDG_", "LC_", "SSL_CERT_", "GCM_"}

// directEnv is the environment of the go command in dir: what the node's user
// set for version control, and no other way to fetch than that.
func directEnv(from environ, dir string) []string {
	var env []string
	for _, kv := range from {
		key, _, _ := strings.Cut(kv, "=")
		if slices.Contains(passed, key) || slices.ContainsFunc(passedPrefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			env = append(env, kv)
		}
	}
	env = append(env,
		"GO111MODULE=on",
		"GOPROXY=direct",
		"GONOPROXY=none",
		"GOSUMDB=off", // the node verifies; a database that is down must not fail the fetch
		"GOFLAGS=-mod=mod -modcacherw",
		"GOWORK=off",
		"GOTOOLCHAIN=local",
		"GOPATH="+filepath.Join(dir, "path"),
		"GOMODCACHE="+filepath.Join(dir, "mod"),
		"GOCACHE="+filepath.Join(dir, "build"),
		"GOTMPDIR="+filepath.Join(dir, "tmp"),
		"TMPDIR="+filepath.Join(dir, "tmp"),
		"GIT_TERMINAL_PROMPT=0", // nobody is there to answer
		"GCM_INTERACTIVE=never",
	)
	return append(env, "PWD="+filepath.Join(dir, "work"))
}

// goCommand runs the go command and returns its output. When the run's context
// ends, the command and all that it started are killed.
func (r *run) goCommand(args ...string) ([]byte, error) {
	got, err := runCommand(newCommand(r.ctx, filepath.Join(r.dir, "work"), r.env, append([]string{r.d.o.Go}, args...)...))
	switch {
	case r.ctx.Err() != nil:
		return nil, failure(r.what, "direct", context.Cause(r.ctx))
	case errors.Is(err, exec.ErrNotFound):
		return nil, protocol.Errorf(http.StatusInternalServerError, "%s: direct needs the go command, and %q is not found; install Go on this node or take direct out of its upstreams", r.what, r.d.o.Go)
	case got.over:
		return nil, protocol.Errorf(http.StatusBadGateway, "%s: direct: %w", r.what, &tooLarge{maxOutput})
	case err != nil:
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return nil, protocol.Errorf(http.StatusInternalServerError, "%s: direct: %w", r.what, err)
		}
		return got.out, goError(r.what, got.text)
	}
	return got.out, nil
}
