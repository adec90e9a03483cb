package policy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"
)

var someModule = module.Version{Path: "a.test/b", Version: "v1.2.3"}

// engineWith opens an engine that has only hooks.
func engineWith(t *testing.T, cfg HookConfig) *Engine {
	t.Helper()
	e, err := Open(Config{Hooks: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func serveHook(t *testing.T, h http.HandlerFunc) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestHookSpeaksAsAthensDoes(t *testing.T) {
	url, asked := serveHook(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var in map[string]string
		if err == nil {
			err = json.Unmarshal(body, &in)
		}
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" ||
			len(in) != 2 || in["Module"] != "a.test/b" || in["Version"] != "v1.2.3" {
			t.Errorf("%s with %q: %s", r.Method, r.Header, body)
		}
	})
	e := engineWith(t, HookConfig{URL: url})
	for range 3 {
		if err := e.Validate(t.Context(), someModule); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the hook was asked %d times, though it had answered", n)
	}
}

// hang answers only once the client has gone, which a server sees after the body.
func hang(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func TestHookVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
		text   string
		asked  int32 // by two questions one after the other
	}{
		"refuses": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "not licensed\n")
		}, ErrRefused, "not licensed", 1},
		"fails":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, ErrHook, "500", 2},
		"other success": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, ErrHook, "204", 2},
		"redirects":     {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, ErrHook, "302", 2},
		"dies":          {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ErrHook, "EOF", 2},
		"hangs":         {hang, ErrHook, "deadline", 2},
	} {
		t.Run(name, func(t *testing.T) {
			url, asked := serveHook(t, c.answer)
			limit := 30 * time.Second
			if name == "hangs" {
				limit = 100 * time.Millisecond
			}
			e := engineWith(t, HookConfig{URL: url, Timeout: limit})
			for range 2 {
				err := e.Validate(t.Context(), someModule)
				if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("error %v, want %v with %q", err, c.want, c.text)
				}
			}
			// A transport may repeat a request that broke off before an answer.
			if n := asked.Load(); n != c.asked && name != "hangs" && name != "dies" {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
			open := engineWith(t, HookConfig{URL: url, Timeout: limit, Open: true})
			if err := open.Validate(t.Context(), someModule); (err == nil) != (c.want == ErrHook) {
				t.Errorf("open to what is not judged: error %v", err)
			}
		})
	}
}

// TestHookConcurrency wants identical questions asked once, and others no more than
// so many at a time.
func TestHookConcurrency(t *testing.T) {
	var now, most atomic.Int32
	release := make(chan struct{})
	url, asked := serveHook(t, func(_ http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	e := engineWith(t, HookConfig{URL: url, Timeout: time.Minute})
	var all sync.WaitGroup
	for i := range 3 * hookConcurrency {
		m := module.Version{Path: "a.test/b", Version: "v1.0." + string(rune('0'+i%10))}
		if i%3 > 0 {
			m.Path = "a.test/" + strings.Repeat("c", i)
		}
		all.Go(func() {
			if err := e.Validate(t.Context(), m); err != nil {
				t.Error(err)
			}
		})
	}
	for asked.Load() < hookConcurrency {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	if n := most.Load(); n > hookConcurrency {
		t.Errorf("%d questions at once, at most %d wanted", n, hookConcurrency)
	}
}

func script(t *testing.T, text string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "judge")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{path, "--strict"}
}

func TestCommandVerdicts(t *testing.T) {
	zip := filepath.Join(t.TempDir(), "x.zip")
	if err := os.WriteFile(zip, []byte("zip"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		want error
		says string
	}{
		"allows":    {`test "$1" = --strict && test "$(cat "$2")" = zip && test "$MESHPROXY_MODULE@$MESHPROXY_VERSION" = a.test/b@v1.2.3`, nil, ""},
		"refuses":   {"echo found malware; exit 1", ErrRefused, "found malware"},
		"fails":     {"echo no database >&2; exit 2", ErrHook, "no database"},
		"is killed": {"kill -9 $$", ErrHook, "killed"},
		"hangs":     {"sleep 600", ErrHook, "took longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := HookConfig{Command: script(t, c.text), Timeout: time.Minute}
			if name == "hangs" {
				cfg.Timeout = 200 * time.Millisecond
			}
			err := engineWith(t, cfg).ValidateZip(t.Context(), someModule, "sum", zip)
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v with %q", err, c.want, c.says)
			}
		})
	}
}

func TestNoHookNoQuestion(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := engineWith(t, HookConfig{})
	if err := errors.Join(e.Validate(ctx, someModule), e.ValidateZip(ctx, someModule, "", "")); err != nil {
		t.Error(err)
	}
}

// TestHookErrorTellsNoURL: what a client is told of a hook that is down holds no part of
// the URL, where secrets stand.
func TestHookErrorTellsNoURL(t *testing.T) {
	url, _ := serveHook(t, func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
	e := engineWith(t, HookConfig{URL: url + "/secret?key=secret"})
	if err := e.Validate(t.Context(), someModule); !errors.Is(err, ErrHook) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v; want no verdict, and no secret", err)
	}
}
