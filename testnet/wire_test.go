package testnet

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

// TestWire holds a whole office to the download protocol, request by request: the
// same answers when nothing is held, when all is, and when zips are asked for so
// often that they stand whole.
//
// A section of testdata/wire.txtar is one exchange: the request line and headers as
// they are sent, a blank line, the wanted status, headers, and after another blank
// line what stands in the body, a line each ("!" before what does not). "!Name" is a
// header that is absent, "~" begins a regular expression for a value, and "=name"
// keeps a value, for {name} further down; it is the same in every round.
func TestWire(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/wire.txtar")
	if err != nil {
		t.Fatal(err)
	}
	w := archiveWorld(t)
	if err := w.Grow(1, outside.Shape{Path: "example.test/large", Versions: []string{"v1.0.0"}, Large: 200 << 10}); err != nil {
		t.Fatal(err)
	}
	s := surround(t, w)
	o := s.Found("a", s.online())
	e := exchanges{addr: strings.TrimPrefix(o.URL(), "http://"), kept: map[string]string{"database": sums}}
	for _, stage := range []string{"cold", "again", "third time", "whole"} {
		for _, f := range archive.Files {
			t.Run(stage+"/"+f.Name, func(t *testing.T) { e.run(t, string(f.Data)) })
		}
	}
}

// exchanges are those with one server, and what was kept of them.
type exchanges struct {
	addr string
	kept map[string]string
}

func (e *exchanges) run(t *testing.T, script string) {
	for name, value := range e.kept {
		script = strings.ReplaceAll(script, "{"+name+"}", value)
	}
	request, want, ok := strings.Cut(script, "\n\n")
	if !ok {
		t.Fatal("script without a blank line after the request")
	}
	head, wantBody, _ := strings.Cut(want, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	resp, body := outside.Send(t, e.addr, request)
	if got := strconv.Itoa(resp.StatusCode); got != lines[0] {
		t.Fatalf("status %s, want %s; body %.300q", got, lines[0], body)
	}
	for _, line := range lines[1:] {
		key, value, _ := strings.Cut(line, ": ")
		e.header(t, resp.Header, key, value)
	}
	for line := range strings.Lines(wantBody) {
		line = strings.TrimSuffix(line, "\n")
		absent := strings.HasPrefix(line, "!")
		if strings.Contains(body, strings.TrimPrefix(line, "!")) == absent {
			t.Errorf("body %.500q: want %s", body, line)
		}
	}
}

func (e *exchanges) header(t *testing.T, h http.Header, key, want string) {
	if absent, ok := strings.CutPrefix(key, "!"); ok {
		if values := h.Values(absent); len(values) > 0 {
			t.Errorf("header %s: %q, want none", absent, values)
		}
		return
	}
	got := strings.Join(h.Values(key), ", ")
	switch {
	case strings.HasPrefix(want, "="):
		before, known := e.kept[want[1:]]
		if got == "" || known && got != before {
			t.Errorf("header %s: %q, was %q", key, got, before)
		}
		e.kept[want[1:]] = got
	case strings.HasPrefix(want, "~"):
		if !regexp.MustCompile(want[1:]).MatchString(got) {
			t.Errorf("header %s: %q does not match %s", key, got, want[1:])
		}
	case got != want:
		t.Errorf("header %s: %q, want %q", key, got, want)
	}
}
