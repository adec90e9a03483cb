package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// link finds where a page of modules goes on.
var link = regexp.MustCompile(`rel="next" href="([^"]*)"`)

func TestPages(t *testing.T) {
	p := newPair(t)
	for i := range many {
		p.ask(t, p.here, fmt.Sprintf("/example.test/many/@v/v1.0.%d.mod", i))
	}
	p.ask(t, p.here, "/example.test/other/@v/v1.0.0.info")
	p.ask(t, p.here, "/example.test/other/@v/v1.0.0.zip")
	p.ask(t, p.there, "/example.test/other/@v/v1.0.0.zip")

	t.Run("every page distrusts what it shows", func(t *testing.T) {
		for _, path := range []string{"", "modules", "module?m=example.test/other@v1.0.0", "alarms", "help"} {
			resp, body := p.page(t, http.StatusOK, path)
			if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
				t.Errorf("%q: policy %q", path, csp)
			}
			if strings.Contains(body, "<img src=x") || strings.Contains(body, "<b>") {
				t.Errorf("%q: a name became HTML", path)
			}
			if regexp.MustCompile(`(?i)<[^>]*\s(style|on[a-z]+)=`).MatchString(body) {
				t.Errorf("%q: something is inline", path)
			}
			if !strings.Contains(body, `<html lang="en">`) || !strings.Contains(body, "<main") || !strings.Contains(body, "<h1") {
				t.Errorf("%q: no language, landmark or heading", path)
			}
		}
	})
	t.Run("the overview shows the other office", func(t *testing.T) {
		_, body := p.page(t, http.StatusOK, "")
		if !strings.Contains(body, html.EscapeString(hostile)) && !strings.Contains(body, "&lt;img src=x onerror=stolen=1&gt;") {
			t.Error("the other office is not there")
		}
		if !strings.Contains(body, "All is well") {
			t.Error("no word on health")
		}
	})
	for _, q := range []string{"example.test/many", "example.test/many@v1", "t/many"} {
		t.Run("modules come in pages, each once: "+q, func(t *testing.T) {
			seen := map[string]bool{}
			pages := 0
			for next := "modules?q=" + q; next != ""; pages++ {
				_, body := p.page(t, http.StatusOK, next)
				for _, m := range regexp.MustCompile(`href="module\?m=([^"]*)"`).FindAllStringSubmatch(body, -1) {
					if seen[m[1]] {
						t.Errorf("%s is there twice", m[1])
					}
					seen[m[1]] = true
				}
				next = ""
				if m := link.FindStringSubmatch(body); m != nil {
					next = html.UnescapeString(m[1])
				}
			}
			if len(seen) != many || pages != 3 {
				t.Errorf("%d versions on %d pages, want %d on 3", len(seen), pages, many)
			}
		})
	}
	t.Run("a version is searched for by its beginning", func(t *testing.T) {
		_, body := p.page(t, http.StatusOK, "modules?q="+url.QueryEscape("example.test/many@v1.0.11"))
		if n := strings.Count(body, `href="module?m=`); n != 11 { // 11, 110 to 119
			t.Errorf("%d versions, want 11", n)
		}
		_, body = p.page(t, http.StatusOK, "modules?q=example.test/o")
		if n := strings.Count(body, `href="module?m=`); n != 1 {
			t.Errorf("%d versions, want 1", n)
		}
	})
	t.Run("a module is found by a part of its path", func(t *testing.T) {
		for part, want := range map[string]int{"/OTH": 1, "ther": 1, "est/man": 50, "nowhere": 0} {
			_, body := p.page(t, http.StatusOK, "modules?q="+url.QueryEscape(part))
			if n := strings.Count(body, `href="module?m=`); n != want {
				t.Errorf("%q: %d versions, want %d", part, n, want)
			}
		}
	})
	t.Run("a version tells its files, origin and holders", func(t *testing.T) {
		_, body := p.page(t, http.StatusOK, "module?m=example.test/other@v1.0.0")
		for _, want := range []string{"go.mod", "a&amp;b.txt", "office berlin", "https://docs.example.test/example.test/other", "<dd>&lt;img src=x"} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in it", want)
			}
		}
	})
	t.Run("what cannot be shown is said", func(t *testing.T) {
		for path, status := range map[string]int{
			"module?m=example.test/absent@v1.0.0":   http.StatusNotFound,
			"module?m=nonsense":                     http.StatusBadRequest,
			"module":                                http.StatusBadRequest,
			"modules?q=" + strings.Repeat("a", 2e3): http.StatusBadRequest,
			"static/layout.html":                    http.StatusNotFound,
			"static/..%2fdashboard.go":              http.StatusNotFound,
			"nowhere":                               http.StatusNotFound,
		} {
			p.page(t, status, path)
		}
	})
	t.Run("nothing can be changed", func(t *testing.T) {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			for _, path := range []string{"", "modules", "module?m=example.test/other@v1.0.0", "alarms", "help", "events", "static/live.js"} {
				req, err := http.NewRequest(method, p.url+path, strings.NewReader("x"))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusMethodNotAllowed {
					t.Errorf("%s %q: status %d", method, path, resp.StatusCode)
				}
			}
		}
	})
}

func TestEvents(t *testing.T) {
	p := newPair(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatalf("Content-Type %q", kind)
	}
	seen := map[string]bool{}
	asked := false
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var part struct{ ID, HTML string }
		if err := json.Unmarshal([]byte(data), &part); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		seen[part.ID] = true
		if part.ID == "feed" && asked && strings.Contains(part.HTML, "example.test/other@v1.0.0.mod") {
			break
		}
		if len(seen) == 5 && !asked {
			asked = true
			p.ask(t, p.here, "/example.test/other/@v/v1.0.0.mod")
		}
	}
	if err := lines.Err(); err != nil || !asked {
		t.Fatalf("the stream ended, %v; parts: %v", err, seen)
	}
}

// TestWatchers holds the number of browsers that are kept up to date.
func TestWatchers(t *testing.T) {
	p := newPair(t)
	const most = 64
	for i := range most + 1 {
		resp, err := http.Get(p.url + "events")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if want := map[bool]int{false: http.StatusOK, true: http.StatusServiceUnavailable}[i == most]; resp.StatusCode != want {
			t.Fatalf("watcher %d: status %d, want %d", i+1, resp.StatusCode, want)
		}
	}
}
