package protocol_test

import (
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"go.uber.org/goleak"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts the real server in front of b.
func serve(tb testing.TB, b protocol.Backend, o protocol.HandlerOptions) *httptest.Server {
	s := httptest.NewUnstartedServer(nil)
	s.Config = protocol.NewServer(protocol.NewHandler(b, o), nil)
	s.Start()
	tb.Cleanup(s.Close)
	return s
}

// TestScripts runs testdata/*.txtar. A section is one exchange: the request line
// and headers as they are sent, a blank line, then the wanted status, headers
// ("!Name" must be absent) and, after another blank line, the whole body. In a
// script, LETTERS(n) stands for n letters.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, stream := range []bool{false, true} {
			b := newMemory(t)
			b.age, b.stream = 90*time.Second, stream
			s := serve(t, b, protocol.HandlerOptions{Self: "node-a"})
			for _, f := range archive.Files {
				t.Run(fmt.Sprintf("%s/stream=%v/%s", filepath.Base(path), stream, f.Name), func(t *testing.T) {
					exchange(t, s.Listener.Addr().String(), string(f.Data))
				})
			}
		}
	}
}

func exchange(t *testing.T, addr, script string) {
	request, want, ok := strings.Cut(script, "\n\n")
	if !ok {
		t.Fatal("script without a blank line after the request")
	}
	resp, body := outside.Send(t, addr, spelled(t, request))
	head, wantBody, checkBody := strings.Cut(want, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	if got := strconv.Itoa(resp.StatusCode); got != lines[0] {
		t.Errorf("status %s, want %s; body %q", got, lines[0], body)
	}
	for _, line := range lines[1:] {
		if absent, ok := strings.CutPrefix(line, "!"); ok {
			if values := resp.Header.Values(absent); len(values) > 0 {
				t.Errorf("header %s: %q, want none", absent, values)
			}
			continue
		}
		key, value, _ := strings.Cut(line, ": ")
		if got := strings.Join(resp.Header.Values(key), ", "); got != value {
			t.Errorf("header %s: %q, want %q", key, got, value)
		}
	}
	if wantBody = strings.TrimSuffix(wantBody, "\n"); checkBody && strings.TrimSuffix(body, "\n") != wantBody {
		t.Errorf("body:\n%q, want\n%q", body, wantBody)
	}
}

// spelled puts as many letters as it says in the place of "LETTERS(n)".
func spelled(t *testing.T, request string) string {
	before, rest, ok := strings.Cut(request, "LETTERS(")
	if !ok {
		return request
	}
	count, after, _ := strings.Cut(rest, ")")
	n, err := strconv.Atoi(count)
	if err != nil {
		t.Fatal(err)
	}
	return before + strings.Repeat("a", n) + after
}
