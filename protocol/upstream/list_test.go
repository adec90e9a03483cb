package upstream_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

func TestParseList(t *testing.T) {
	for _, test := range []struct{ name, list, want string }{
		{"one", "https://a.test", "a.test"},
		{"bare host", "a.test", "a.test"},
		{"bare host and path", "a.test/go/", "a.test/go"},
		{"host and port", "a.test:8080", "a.test:8080"},
		{"separators", "https://a.test|https://b.test,direct", "a.test|b.test,direct"},
		{"blanks and empty elements", " https://a.test , ,| off ", "a.test,off"},
		{"nothing after direct", "direct,https://a.test", "direct"},
		{"nothing after off", "off,https://a.test", "off"},
		{"user info is not shown", "https://user:secret@a.test/x", "a.test/x"},
		{"file", "file:///srv/mods", "file:///srv/mods"},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := parse(t, test.list, upstream.Options{})
			if got := strings.ReplaceAll(u.String(), " ", ""); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestParseListRefuses(t *testing.T) {
	own := []string{"127.0.0.1:8080", "[::]:9090", "node.example.test:443"}
	for _, test := range []struct {
		name, list string
		loop       bool
	}{
		{"empty", "", false},
		{"only separators", ",|, ", false},
		{"one word", "proxy", false},
		{"unknown scheme", "ftp://a.test", false},
		{"no host", "https:///x", false},
		{"relative file", "file://x/y", false},
		{"absolute path", "/srv/mods", false},
		{"secrets over http", "http://user:secret@a.test", false},
		{"control character", "https://a.test/\x00", false},
		{"own address", "http://127.0.0.1:8080", true},
		{"own address by name", "http://localhost:8080/x", true},
		{"own address on all interfaces", "off,|http://127.0.0.1:9090"[4:], true},
		{"own name with the default port", "https://node.example.test", true},
		{"own address after another", "https://a.test,http://localhost:9090", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := upstream.Parse(test.list, upstream.Options{Own: own, Env: []string{}})
			if err == nil || errors.Is(err, upstream.ErrLoop) != test.loop {
				t.Fatalf("%v, want an error; for a loop: %v", err, test.loop)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("password in %v", err)
			}
		})
	}
}

// TestFallthrough holds the go command's rules for "," and "|", and which error
// is shown.
func TestFallthrough(t *testing.T) {
	const ok = http.StatusOK
	for _, test := range []struct {
		name   string
		list   string // A and B stand for two proxies
		a, b   int    // their statuses
		status int
		asked  string // proxies that were asked
		says   string
	}{
		{"first answers", "A,B", ok, ok, ok, "A", ""},
		{"404 then answer", "A,B", 404, ok, ok, "AB", ""},
		{"410 then answer", "A,B", 410, ok, ok, "AB", ""},
		{"403 ends a comma", "A,B", 403, ok, 403, "A", "403 Forbidden\nso it is"},
		{"400 ends a comma", "A,B", 400, ok, 400, "A", "400 Bad Request"},
		{"429 ends a comma", "A,B", 429, ok, 503, "A", "429 Too Many Requests"},
		{"401 ends a comma", "A,B", 401, ok, 403, "A", "401 Unauthorized"},
		{"500 ends a comma", "A,B", 500, ok, 502, "A", "500 Internal Server Error"},
		{"503 ends a comma", "A,B", 503, ok, 503, "A", "503 Service Unavailable"},
		{"403 passes a bar", "A|B", 403, ok, ok, "AB", ""},
		{"500 passes a bar", "A|B", 500, ok, ok, "AB", ""},
		{"404 passes a bar", "A|B", 404, ok, ok, "AB", ""},
		{"404 twice", "A,B", 404, 404, 404, "AB", "not found: "},
		{"last not found is told", "A,B", 404, 410, 410, "AB", "410 Gone"},
		{"outage outranks not found", "A|B", 500, 404, 502, "AB", "500 Internal"},
		{"last outage is told", "A|B", 500, 503, 503, "AB", "503 Service"},
		{"off after 404", "A,off", 404, ok, 404, "A", "GOPROXY=off"},
		{"off alone", "off", ok, ok, 404, "", "GOPROXY=off"},
		{"off after outage", "A|off", 500, ok, 502, "A", "500 Internal"},
		{"loop elsewhere", "A,B", 508, ok, 508, "A", "508 Loop Detected"},
		{"created is no answer", "A,B", 201, ok, 502, "A", "201 Created"},
		{"no content is no answer", "A,B", 204, ok, 502, "A", "204 No Content"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := newWorld(t), newWorld(t)
			if test.a != ok {
				a.status(test.a)
			}
			if test.b != ok {
				b.status(test.b)
			}
			u := parse(t, strings.NewReplacer("A", a.URL, "B", b.URL).Replace(test.list), upstream.Options{})
			f, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod))
			if test.status == ok {
				if err != nil || string(f.Data) != gomodA {
					t.Fatalf("%+v, %v", f, err)
				}
			} else if got := protocol.StatusOf(err); err == nil || got != test.status || !strings.Contains(err.Error(), test.says) {
				t.Errorf("status %d, %v; want %d, %q", got, err, test.status, test.says)
			}
			asked := ""
			if a.count("") > 0 {
				asked = "A"
			}
			if b.count("") > 0 {
				asked += "B"
			}
			if asked != test.asked {
				t.Errorf("asked %q, want %q", asked, test.asked)
			}
		})
	}
}

// TestPrivateModulesStayPrivate keeps modules that match NoProxy from proxies,
// whatever the list says.
func TestPrivateModulesStayPrivate(t *testing.T) {
	r := newRepos(t)
	r.commit(t, "x.git", map[string]string{"go.mod": "module example.test/acme/x.git\n"}, "v1.0.0")
	for _, list := range []string{"A", "A,direct", "off"} {
		t.Run(list, func(t *testing.T) {
			w := newWorld(t)
			u := parse(t, strings.ReplaceAll(list, "A", w.URL), upstream.Options{Env: r.env, NoProxy: "example.test/acme,other.test"})
			f, err := u.File(t.Context(), name("example.test/acme/x.git", "v1.0.0", verify.Mod))
			if err != nil || f.Source != "direct" {
				t.Errorf("%+v, %v", f, err)
			}
			if n := w.count(""); n != 0 {
				t.Errorf("proxy was asked %d times for a private module", n)
			}
		})
	}
}

func TestFileProxy(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "example.test", "!mixed", "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "v1.0.0.mod"), []byte("module example.test/Mixed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u := parse(t, "file://"+dir, upstream.Options{})
	f, err := u.File(t.Context(), name("example.test/Mixed", "v1.0.0", verify.Mod))
	if err != nil || string(f.Data) != "module example.test/Mixed\n" {
		t.Errorf("%+v, %v", f, err)
	}
	_, err = u.File(t.Context(), name("example.test/Mixed", "v1.0.0", verify.Info))
	if got := protocol.StatusOf(err); got != http.StatusNotFound {
		t.Errorf("status %d, %v; want 404", got, err)
	}
}
