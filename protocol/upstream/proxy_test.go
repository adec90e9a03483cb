package upstream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

func TestFiles(t *testing.T) {
	w := newWorld(t)
	w.text("/go/example.test/!mixed/@v/v2.0.0-!r!c1+incompatible.mod", "module example.test/Mixed\n")
	u := parse(t, w.URL, upstream.Options{})
	for kind, want := range map[verify.Kind]string{verify.Info: infoA, verify.Mod: gomodA, verify.Zip: "PK zip"} {
		f, err := u.File(t.Context(), name(modA, "v1.0.0", kind))
		if err != nil {
			t.Fatal(err)
		}
		got := f.Data
		if kind == verify.Zip {
			if got, err = io.ReadAll(io.NewSectionReader(f.Content(), 0, f.Size)); err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != want || f.Size != int64(len(want)) || f.Source != w.host() || len(f.Also) != 0 {
			t.Errorf("%s: %q, %+v", kind, got, f)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(w.asked) != 3 {
		t.Errorf("asked %q, want one request for each file", w.asked)
	}
	u = parse(t, w.URL+"/go/", upstream.Options{})
	f, err := u.File(t.Context(), name("example.test/Mixed", "v2.0.0-RC1+incompatible", verify.Mod))
	if err != nil || string(f.Data) != "module example.test/Mixed\n" {
		t.Errorf("%+v, %v; asked %q", f, err, w.asked)
	}
}

func TestNamesAreCheckedBeforeIO(t *testing.T) {
	w := newWorld(t)
	u := parse(t, w.URL, upstream.Options{})
	for _, n := range []verify.Name{
		name("example.test/../a", "v1.0.0", verify.Mod), name(modA, "main", verify.Mod), name(modA, "v1.0.0", "lock"), name("-x.test/a", "v1.0.0", verify.Zip),
	} {
		if _, err := u.File(t.Context(), n); protocol.StatusOf(err) != http.StatusBadRequest {
			t.Errorf("%s: %v", n, err)
		}
	}
	for _, query := range []string{"-x", "a/b", "latest", "a@b", "", "a\x00", "../x"} {
		if _, err := u.Query(t.Context(), modA, query); err == nil {
			t.Errorf("query %q: no error", query)
		}
	}
	if n := w.count(""); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
}

// TestRetry holds what is asked again: answers that may be another's the next
// time, never a refusal.
func TestRetry(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault http.HandlerFunc
		tries int
	}{
		{"502", fails(502), 3},
		{"503", fails(503), 3},
		{"500", fails(500), 3},
		{"connection cut before an answer", cutOff(""), 3},
		{"connection cut in the headers", cutOff("HTTP/1.1 200 OK\r\nContent-Le"), 3},
		{"body shorter than announced", cutOff("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nmodule"), 3},
		{"chunked body without an end", cutOff("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nmodule\r\n"), 3},
		{"malformed answer", cutOff("GARBAGE\r\n\r\n"), 3},
		{"404", fails(404), 1},
		{"403", fails(403), 1},
		{"429", fails(429), 1},
		{"503 for a long time", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", "3600")
			rw.WriteHeader(503)
		}, 1},
	} {
		for _, kind := range []verify.Kind{verify.Mod, verify.Zip} {
			t.Run(test.name+"/"+string(kind), func(t *testing.T) {
				w := newWorld(t)
				w.all = test.fault
				u := parse(t, w.URL, upstream.Options{})
				_, err := u.File(t.Context(), name(modA, "v1.0.0", kind))
				if n := w.count(""); err == nil || n != test.tries {
					t.Errorf("tried %d times, want %d; %v", n, test.tries, err)
				}
				if status := protocol.StatusOf(err); status == http.StatusInternalServerError || test.tries > 1 && status < 500 {
					t.Errorf("status %d for %v", status, err)
				}
			})
			if test.tries > 1 {
				t.Run(test.name+" once/"+string(kind), func(t *testing.T) { recovers(t, test.fault, kind) })
			}
		}
	}
}

// recovers has an upstream that fails once.
func recovers(t *testing.T, fault http.HandlerFunc, kind verify.Kind) {
	w := newWorld(t)
	good := w.handlers["/example.test/a/@v/v1.0.0."+string(kind)]
	var n atomic.Int32
	w.all = func(rw http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			fault(rw, r)
		} else {
			good(rw, r)
		}
	}
	f, err := parse(t, w.URL, upstream.Options{}).File(t.Context(), name(modA, "v1.0.0", kind))
	if err != nil {
		t.Fatal(err)
	}
	if kind == verify.Zip {
		if got, err := io.ReadAll(io.NewSectionReader(f.Content(), 0, f.Size)); err != nil || string(got) != "PK zip" {
			t.Errorf("after a second try: %q, %v", got, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func fails(code int) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "so it is", code) }
}

// cutOff writes raw bytes and closes the connection.
func cutOff(raw string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(conn, raw)
		conn.Close()
	}
}

// TestLies holds what is refused in an answer with status 200.
func TestLies(t *testing.T) {
	for _, test := range []struct {
		name   string
		kind   verify.Kind
		answer http.HandlerFunc
		says   string
	}{
		{"info of another version", verify.Info, says(`{"Version":"v1.0.1"}`), "v1.0.1"},
		{"info without version", verify.Info, says(`{}`), "instead"},
		{"info that is no JSON", verify.Info, says(`<html>`), "invalid character"},
		{"go.mod that is a web page", verify.Mod, says("\n<!doctype html>"), "web page"},
		{"info too large", verify.Info, says(strings.Repeat(" ", verify.MaxInfo) + "{}"), "larger than"},
		{"info too large, without announcing", verify.Info, chunks(verify.MaxInfo/1000+10, 1000), "larger than"},
		{"go.mod too large", verify.Mod, announces(verify.MaxMod + 1), "larger than"},
		{"zip too large", verify.Zip, announces(verify.MaxZip + 1), "larger than"},
		{"compressed without being asked", verify.Zip, func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(rw, "x")
		}, "gzip"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.all = test.answer
			u := parse(t, w.URL, upstream.Options{})
			_, err := u.File(t.Context(), name(modA, "v1.0.0", test.kind))
			if protocol.StatusOf(err) != http.StatusBadGateway || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), w.host()) {
				t.Errorf("status %d, %v; want 502 that names the upstream and %q", protocol.StatusOf(err), err, test.says)
			}
			if n := w.count(""); n != 1 {
				t.Errorf("asked %d times, want once", n)
			}
		})
	}
}

func says(text string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, text) }
}

func announces(size int64) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		rw.WriteHeader(http.StatusOK)
	}
}

func chunks(n, size int) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		for range n {
			rw.Write(bytes.Repeat([]byte{' '}, size))
			http.NewResponseController(rw).Flush()
		}
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{}, 1)
	w.all = func(_ http.ResponseWriter, r *http.Request) { asked <- struct{}{}; <-r.Context().Done() }
	u := parse(t, w.URL+"|off", upstream.Options{Zips: 1})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := u.File(ctx, name(modA, "v1.0.0", verify.Zip))
	if !errors.Is(err, context.Canceled) || protocol.StatusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("%v, status %d", err, protocol.StatusOf(err))
	}
	// A second one must not wait for the first one's place in the queue.
	_, err = u.File(ctx, name(modA, "v1.0.0", verify.Zip))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	u := parse(t, "http://"+addr, upstream.Options{})
	_, err = u.List(t.Context(), modA)
	if protocol.StatusOf(err) != http.StatusServiceUnavailable || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("status %d, %v; want 503 that names %s", protocol.StatusOf(err), err, addr)
	}
}

func TestRedirects(t *testing.T) {
	w := newWorld(t)
	w.handle("/example.test/a/@v/v1.1.0.mod", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "/example.test/a/@v/v1.0.0.mod", http.StatusFound)
	})
	w.handle("/example.test/a/@v/v1.2.0.mod", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, r.URL.Path, http.StatusMovedPermanently)
	})
	w.handle("/example.test/a/@v/v1.3.0.mod", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "http://node.example.test:8080/x", http.StatusFound)
	})
	w.handle("/example.test/a/@v/v1.4.0.mod", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "file:///etc/passwd", http.StatusFound)
	})
	u := parse(t, w.URL, upstream.Options{Own: []string{"node.example.test:8080"}})
	if f, err := u.File(t.Context(), name(modA, "v1.1.0", verify.Mod)); err != nil || string(f.Data) != gomodA {
		t.Errorf("one redirect: %+v, %v", f, err)
	}
	for version, want := range map[string]struct {
		status int
		says   string
	}{"v1.2.0": {502, "stopped after 10 redirects"}, "v1.3.0": {508, "own upstream"}, "v1.4.0": {502, "refused"}} {
		_, err := u.File(t.Context(), name(modA, version, verify.Mod))
		if protocol.StatusOf(err) != want.status || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: status %d, %v; want %+v", version, protocol.StatusOf(err), err, want)
		}
	}
	if n := w.count("v1.2.0.mod"); n != 10 {
		t.Errorf("a circle was walked %d times, want 10", n)
	}
}

func TestRedirectToHTTP(t *testing.T) {
	plain := newWorld(t)
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, plain.URL+r.URL.Path, http.StatusFound)
	}))
	defer s.Close()
	u := parse(t, s.URL, upstream.Options{Transport: s.Client().Transport})
	_, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod))
	if protocol.StatusOf(err) != http.StatusBadGateway || !strings.Contains(err.Error(), "https to http") || plain.count("") != 0 {
		t.Errorf("%v; asked over http %d times", err, plain.count(""))
	}
}

func TestQueriesAndLatest(t *testing.T) {
	w := newWorld(t)
	w.text("/example.test/a/@v/main.info", `{"Version":"`+pseudo2+`"}`)
	w.text("/example.test/a/@v/bad.info", `{"Version":"bad"}`)
	w.text("/example.test/a/@latest", `{"Version":"v1.0.0"}`)
	w.text("/example.test/nolatest/@v/list", "v1.0.0\nv1.1.0-rc.1\n"+pseudo2+"\n")
	w.text("/example.test/nolatest/@v/v1.0.0.info", infoA)
	w.text("/example.test/untagged/@v/list", pseudo2+"\n"+pseudo1+"\n")
	w.text("/example.test/untagged/@v/"+pseudo2+".info", `{"Version":"`+pseudo2+`"}`)
	w.text("/example.test/empty/@v/list", "")
	w.handle("/example.test/down/@latest", fails(503))
	u := parse(t, w.URL, upstream.Options{})

	f, err := u.Query(t.Context(), modA, "main")
	if err != nil || f.Name.Module.Version != pseudo2 {
		t.Errorf("branch: %+v, %v", f, err)
	}
	if _, err := u.Query(t.Context(), modA, "bad"); protocol.StatusOf(err) != http.StatusBadGateway {
		t.Errorf("branch that resolves to no version: %v", err)
	}
	for mod, want := range map[string]string{modA: "v1.0.0", "example.test/nolatest": "v1.0.0", "example.test/untagged": pseudo2} {
		if f, err := u.Latest(t.Context(), mod); err != nil || f.Name.Module.Version != want {
			t.Errorf("latest of %s: %+v, %v; want %s", mod, f, err, want)
		}
	}
	for mod, want := range map[string]int{"example.test/empty": 404, "example.test/none": 404, "example.test/down": 503} {
		if _, err := u.Latest(t.Context(), mod); protocol.StatusOf(err) != want {
			t.Errorf("latest of %s: %v, want %d", mod, err, want)
		}
	}
	list, err := u.List(t.Context(), "example.test/untagged")
	if err != nil || len(list.Tagged) != 0 || strings.Join(list.Pseudo, " ") != pseudo1+" "+pseudo2 || list.Source != w.host() {
		t.Errorf("list: %+v, %v", list, err)
	}
}

// TestBounded holds that no more requests are in flight than allowed, that all
// are answered, and that a go.mod does not queue behind zips.
func TestBounded(t *testing.T) {
	w := newWorld(t)
	var now, most atomic.Int32
	release := make(chan struct{})
	full := make(chan struct{}, 100)
	w.handle("/example.test/a/@v/v1.0.0.zip", func(rw http.ResponseWriter, _ *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		full <- struct{}{}
		<-release
		now.Add(-1)
		fmt.Fprint(rw, "PK zip")
	})
	u := parse(t, w.URL, upstream.Options{Zips: 3})
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			f, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Zip))
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
		})
	}
	for range 3 {
		<-full
	}
	if f, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod)); err != nil || string(f.Data) != gomodA {
		t.Errorf("go.mod while zips hang: %+v, %v", f, err)
	}
	close(release)
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d zips in flight, want 3", most.Load())
	}
}

func TestCredentials(t *testing.T) {
	home := t.TempDir()
	type seen struct{ user, password string }
	var got seen
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got.user, got.password, _ = r.BasicAuth()
		fmt.Fprint(rw, gomodA)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "https://")
	netrc := fmt.Sprintf("machine other.test login x password y\nmacdef init\n\tmachine %s login evil password evil\n\nmachine %s\n\tlogin anna\n\tpassword s3cret\nmachine %s login late password late\ndefault login d password d\n", host, host, host)
	if err := os.WriteFile(filepath.Join(home, ".netrc"), []byte(netrc), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(home, "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("machine "+host+" login bert password b"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, url string
		env       []string
		want      seen
	}{
		{"netrc", s.URL, []string{"HOME=" + home}, seen{"anna", "s3cret"}},
		{"other file", s.URL, []string{"HOME=" + home, "NETRC=" + elsewhere}, seen{"bert", "b"}},
		{"user info", "https://carl:c@" + host, []string{"HOME=" + home}, seen{"carl", "c"}},
		{"GOAUTH off", s.URL, []string{"HOME=" + home, "GOAUTH=off"}, seen{}},
		{"GOAUTH netrc among others", s.URL, []string{"HOME=" + home, "GOAUTH=git /x; netrc"}, seen{"anna", "s3cret"}},
		{"no file", s.URL, []string{"HOME=" + t.TempDir()}, seen{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got = seen{}
			u := parse(t, test.url, upstream.Options{Env: test.env, Transport: s.Client().Transport})
			if _, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod)); err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("sent %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestCredentialsStayWithTheirHost(t *testing.T) {
	var leaked string
	other := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		leaked = r.Header.Get("Authorization")
		fmt.Fprint(rw, gomodA)
	}))
	defer other.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		// The same address under another name is another host.
		http.Redirect(rw, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusFound)
	}))
	defer s.Close()
	u := parse(t, strings.Replace(s.URL, "https://", "https://u:p@", 1), upstream.Options{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	})
	if _, err := u.File(t.Context(), name(modA, "v1.0.0", verify.Mod)); err != nil {
		t.Fatal(err)
	}
	if leaked != "" {
		t.Errorf("another host was sent %q", leaked)
	}
}

func TestHopsAreSentOn(t *testing.T) {
	w := newWorld(t)
	var hops []string
	w.all = func(rw http.ResponseWriter, r *http.Request) {
		hops = append(hops, r.Header.Get(protocol.HopHeader))
		fmt.Fprint(rw, gomodA)
	}
	u := parse(t, w.URL, upstream.Options{Self: "node-a"})
	for _, ctx := range []context.Context{t.Context(), protocol.WithHops(t.Context(), "node-b,node-c")} {
		if _, err := u.File(ctx, name(modA, "v1.0.0", verify.Mod)); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(hops, " "); got != "node-a node-b,node-c,node-a" {
		t.Errorf("hops %q", got)
	}
}

// TestLoop runs two nodes that are each other's upstream.
func TestLoop(t *testing.T) {
	var nodes [2]*httptest.Server
	for i := range nodes {
		nodes[i] = httptest.NewUnstartedServer(nil)
	}
	for i := range nodes {
		self := fmt.Sprint("node-", i)
		u := parse(t, "http://"+nodes[1-i].Listener.Addr().String(), upstream.Options{Self: self})
		nodes[i].Config.Handler = protocol.NewHandler(passing{u: u}, protocol.HandlerOptions{Self: self})
		nodes[i].Start()
		t.Cleanup(nodes[i].Close)
	}
	resp, err := http.Get(nodes[0].URL + "/example.test/a/@v/v1.0.0.mod")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusLoopDetected || !strings.Contains(string(text), "loop detected: node node-0") {
		t.Errorf("status %d, %s; want 508 that names the node", resp.StatusCode, text)
	}
	http.DefaultClient.CloseIdleConnections()
}
