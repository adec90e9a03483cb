//go:build unix

package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// program writes a shell script that takes the place of the go command.
func program(t *testing.T, script string) string {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no shell:", err)
	}
	path := filepath.Join(t.TempDir(), "go")
	if err := os.WriteFile(path, []byte("#!"+sh+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGoCommandMissing(t *testing.T) {
	u := parse(t, "direct", upstream.Options{Go: "no-such-go-command"})
	_, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod))
	if protocol.StatusOf(err) != http.StatusInternalServerError || !strings.Contains(err.Error(), `direct needs the go command, and "no-such-go-command" is not found`) {
		t.Errorf("status %d, %v", protocol.StatusOf(err), err)
	}
}

// TestGoCommandIsKilled holds that a run ends with its context, and with it what
// the go command started.
func TestGoCommandIsKilled(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "pid")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skip("no named pipes:", err)
	}
	u := parse(t, "direct", upstream.Options{Go: program(t, "sleep 1000 &\necho $! >"+fifo+"\nwait\n")})
	ctx, cancel := context.WithCancel(t.Context())
	pid := make(chan string, 1)
	go func() {
		text, _ := os.ReadFile(fifo)
		pid <- strings.TrimSpace(string(text))
		cancel()
	}()
	_, err := u.File(ctx, name(modA, "v1.0.0", verify.Mod))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	child, err := strconv.Atoi(<-pid)
	if err != nil {
		t.Fatal(err)
	}
	// The kill is sent before File returns; the kernel may take a moment.
	for i := 0; syscall.Kill(child, 0) == nil && !isZombie(child); i++ {
		if i == 1000 {
			t.Fatalf("child %d of the go command is still alive", child)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// isZombie reports whether a process is dead and only its parent has not asked.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

func TestGoCommandDeadline(t *testing.T) {
	u := parse(t, "direct", upstream.Options{Go: program(t, "exec sleep 1000\n"), Deadline: 20 * time.Millisecond})
	_, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod))
	if protocol.StatusOf(err) != http.StatusGatewayTimeout || !strings.Contains(err.Error(), "no end of the go command for 20ms") {
		t.Errorf("status %d, %v; want 504", protocol.StatusOf(err), err)
	}
}

// TestGoCommandEnvironment holds what reaches the go command, and what does not.
func TestGoCommandEnvironment(t *testing.T) {
	out := filepath.Join(t.TempDir(), "env")
	u := parse(t, "direct", upstream.Options{
		Go: program(t, "env >"+out+"\necho \"$@\" >>"+out+"\nexit 1\n"),
		Env: []string{
			"PATH=" + os.Getenv("PATH"), "HOME=/home/x", "SSH_AUTH_SOCK=/s", "GIT_SSH_COMMAND=ssh -i k", "GOPRIVATE=a.test", "GOVCS=*:git", "GOAUTH=netrc", "https_proxy=http://p.test",
			"GOPROXY=https://evil.test", "GOFLAGS=-toolexec=evil", "GOSUMDB=evil", "GOWORK=/evil", "GOTOOLCHAIN=evil", "GOMODCACHE=/evil", "SECRET_TOKEN=evil", "CC=evil", "GIT_TERMINAL_PROMPT=1",
		},
	})
	if _, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod)); err == nil {
		t.Error("no error")
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for _, want := range []string{
		"HOME=/home/x", "SSH_AUTH_SOCK=/s", "GIT_SSH_COMMAND=ssh -i k", "GOPRIVATE=a.test", "GOVCS=*:git", "GOAUTH=netrc", "https_proxy=http://p.test",
		"GOPROXY=direct", "GOSUMDB=off", "GOWORK=off", "GOTOOLCHAIN=local", "GONOPROXY=none", "GIT_TERMINAL_PROMPT=0", "GOFLAGS=-mod=mod -modcacherw",
		"list -m -json -- example.test/a@v1.0.0",
	} {
		if !contains(lines, want) {
			t.Errorf("without %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "evil") {
		t.Errorf("variables that must not pass:\n%s", text)
	}
}

func contains(lines []string, want string) bool {
	for _, line := range lines {
		if line == want {
			return true
		}
	}
	return false
}

// TestGoCommandErrors maps its messages, the only thing that it says.
func TestGoCommandErrors(t *testing.T) {
	for _, test := range []struct {
		name, stderr string
		status       int
	}{
		{"unknown revision", "go: example.test/a@v1.0.0: invalid version: unknown revision v1.0.0", 404},
		{"no such repository", "go: module example.test/a: git ls-remote -q origin in /x: exit status 128:\n\tremote: Repository not found.", 404},
		{"no repository there", "go: unrecognized import path \"example.test/a\": parse https://example.test/a?go-get=1: no go-import meta tags ()", 404},
		{"page not found", "go: unrecognized import path \"example.test/a\": reading https://example.test/a?go-get=1: 404 Not Found", 404},
		{"asks for a password", "go: module example.test/a: git ls-remote: exit status 128:\n\tfatal: could not read Username for 'https://example.test': terminal prompts disabled", 404},
		{"host unknown", "go: unrecognized import path \"example.test/a\": https fetch: Get \"https://example.test/a?go-get=1\": dial tcp: lookup example.test: no such host", 502},
		{"connection refused", "go: module example.test/a: git fetch: exit status 128:\n\tfatal: unable to access: Failed to connect: Connection refused", 502},
		{"page is down", "go: unrecognized import path \"example.test/a\": reading https://example.test/a?go-get=1: 503 Service Unavailable", 502},
		{"not found on the way to an outage", "go: dial tcp 10.0.0.1:443: i/o timeout\n404 Not Found", 502},
		{"server is down", "go: example.test/a@v1.0.0: invalid version: git ls-remote -q origin in /x: exit status 128:\n\tfatal: unable to access 'https://example.test/a/': The requested URL returned error: 503", 502},
		{"server cannot be reached", "go: example.test/a@v1.0.0: invalid version: git ls-remote -q origin in /x: exit status 128:\n\tfatal: unable to access 'https://example.test/a/': Failed to connect to example.test port 443: Couldn't connect to server", 502},
		{"git is killed", "go: example.test/a@v1.0.0: invalid version: git fetch -f origin in /x: signal: killed", 502},
		{"no such repository for a version", "go: example.test/a@v1.0.0: invalid version: git ls-remote -q origin in /x: exit status 128:\n\tfatal: repository 'https://example.test/a/' not found", 404},
		{"no such project", "go: example.test/a@v1.0.0: invalid version: git ls-remote -q origin in /x: exit status 128:\n\tremote: ERROR: The project you were looking for could not be found or you don't have permission to view it.", 404},
		{"other major version", "go: example.test/a@v1.0.0: invalid version: go.mod has post-v0 module path \"example.test/a/v2\" at revision v1.0.0", 404},
		{"outage of a module whose name looks like an error", "go: unrecognized import path \"example.test/post-viewer\": https fetch: Get \"https://example.test/post-viewer?go-get=1\": EOF", 502},
		{"wrong password", "go: git fetch: exit status 128:\n\tfatal: Authentication failed for 'https://example.test/a'", 403},
		{"wrong key", "go: git fetch: exit status 128:\n\tgit@example.test: Permission denied (publickey).", 403},
		{"forbidden tool", "go: example.test/a: GOVCS disallows using bzr for public example.test/a; see 'go help vcs'", 403},
		{"what nobody foresaw", "go: the moon is full", 502},
		{"nothing", "", 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := parse(t, "direct", upstream.Options{Go: program(t, "cat >&2 <<'END'\n"+test.stderr+"\nEND\nexit 1\n")})
			_, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod))
			if protocol.StatusOf(err) != test.status || !strings.Contains(err.Error(), "example.test/a@v1.0.0.mod: upstream direct:") {
				t.Errorf("status %d, %v; want %d", protocol.StatusOf(err), err, test.status)
			}
			if words := strings.TrimPrefix(test.stderr, "go: "); !strings.Contains(err.Error(), words) {
				t.Errorf("%v: without the go command's own words", err)
			}
		})
	}
}

// TestGoCommandLies has a go command that answers what it was not asked.
func TestGoCommandLies(t *testing.T) {
	for _, test := range []struct{ name, script string }{
		{"no JSON", "echo hello"},
		{"no files", `echo '{"Version":"v1.0.0"}'`},
		{"no version", `echo '{"Version":"main","GoMod":"/dev/null"}'`},
		{"output without end", "head -c 9000000 /dev/zero"},
		{"file that is not there", `echo '{"Version":"v1.0.0","GoMod":"/nonexistent/v1.0.0.mod","Info":"/nonexistent/x.info","Zip":"/nonexistent/x.zip"}'`},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := parse(t, "direct", upstream.Options{Go: program(t, test.script)})
			for _, kind := range []verify.Kind{verify.Mod, verify.Zip} {
				_, err := u.File(t.Context(), name(modA, "v1.0.0", kind))
				if protocol.StatusOf(err) != http.StatusBadGateway {
					t.Errorf("%s: status %d, %v; want 502", kind, protocol.StatusOf(err), err)
				}
			}
		})
	}
}
