package protocol_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
)

// TestGoCommand asks by the go command itself, and holds what its user sees.
func TestGoCommand(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the go command is not installed:", err)
	}
	s := serve(t, newMemory(t), protocol.HandlerOptions{})
	dir := t.TempDir()
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GOENV=off", "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=-mod=mod -modcacherw", "GONOSUMDB=*",
		"GOPATH=" + filepath.Join(dir, "path"), "GOCACHE=" + filepath.Join(dir, "cache"), "GOPROXY=" + s.URL,
	}
	for _, test := range []struct {
		name, args string
		ok         bool
		says       []string
	}{
		{"download", "mod download -json example.test/mod@v1.0.0", true, []string{`"Sum": "h1:`}},
		{"capitals", "mod download -json example.test/Mixed/CASE@v1.0.0-RC1", true, []string{`"Sum": "h1:`}},
		{"incompatible", "mod download -json example.test/mod@v2.0.0+incompatible", true, []string{`"Sum": "h1:`}},
		{"list", "list -m -versions example.test/mod@latest", true, []string{"example.test/mod v1.0.0 v1.1.0-rc.1 v2.0.0+incompatible"}},
		{"latest", "list -m example.test/mod@latest", true, []string{"example.test/mod v2.0.0+incompatible"}},
		{"branch", "list -m example.test/mod@main", true, []string{"example.test/mod v0.0.0-20240301120000-0123456789ab"}},
		{"no such version", "list -m example.test/mod@v1.9.0", false, []string{"404 Not Found", "server response:", "not found: example.test/mod@v1.9.0.info: upstream proxy.example.test: 404 Not Found"}},
		{"gone", "list -m example.test/gone@v1.0.0", false, []string{"410 Gone", "removed by its author"}},
		{"forbidden", "list -m example.test/forbidden@v1.0.0", false, []string{"403 Forbidden", "server response: example.test/forbidden"}},
		{"outage", "list -m example.test/outage@v1.0.0", false, []string{"503 Service Unavailable", "server response: no office holds example.test/outage@v1.0.0: upstream proxy.example.test: connection refused"}},
		{"text unfit for a terminal", "list -m example.test/rude@v1.0.0", false, []string{"502 Bad Gateway", "second\n\tthird\n\t4\n\t5\n\t6\n\t7\n\t8"}},
		{"text without end", "list -m example.test/wordy@v1.0.0", false, []string{strings.Repeat("ü", 324)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command("go", strings.Fields(test.args)...)
			cmd.Dir, cmd.Env = dir, env
			out, err := cmd.CombinedOutput()
			if (err == nil) != test.ok {
				t.Errorf("%v, want success: %v", err, test.ok)
			}
			for _, want := range test.says {
				if !strings.Contains(string(out), want) {
					t.Errorf("output without %q:\n%s", want, out)
				}
			}
		})
	}
}
