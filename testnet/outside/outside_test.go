package outside

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/mod/module"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const greeting = `
-- example.test/Greet@v1.0.0/go.mod --
module example.test/Greet

go 1.21
-- example.test/Greet@v1.0.0/greet.go --
package greet

const Hello = "hello, v1.0.0"
-- example.test/Greet@v1.1.0/go.mod --
module example.test/Greet

go 1.21
-- example.test/Greet@v1.1.0/greet.go --
package greet

const Hello = "hello, v1.1.0"
-- example.test/Greet@v1.1.0?main --
`

func start(t *testing.T, content http.Handler) *Server {
	t.Helper()
	s, err := NewServer(content)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func newGo(t *testing.T, settings ...string) *Go {
	t.Helper()
	g, err := NewGo(t.TempDir(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func greetWorld(t *testing.T) *World {
	t.Helper()
	w := new(World)
	if err := w.AddArchive(greeting); err != nil {
		t.Fatal(err)
	}
	return w
}

// get fetches with a client of its own, so that no idle connection outlives a
// server.
func get(t *testing.T, url string) (status int, body []byte, err error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func TestGoCommandAcceptsTheWorld(t *testing.T) {
	w := greetWorld(t)
	db, err := w.Database("sums.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Fill(t.Context(), 300); err != nil {
		t.Fatal(err)
	}
	up := start(t, Proxy(w, db))
	g := newGo(t, "GOPROXY="+up.URL(), "GOSUMDB="+db.Key())
	if err := g.Write("go.mod", "module example.test/main\n\ngo 1.21\n"); err != nil {
		t.Fatal(err)
	}
	if err := g.Write("main.go", "package main\n\nimport \"example.test/Greet\"\n\nfunc main() { println(greet.Hello) }\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Run(t.Context(), "get", "example.test/Greet@main"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Run(t.Context(), "build", "-o", filepath.Join(t.TempDir(), "main"), "."); err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(g.Dir(), "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	h1, err := w.Release(module.Version{Path: "example.test/Greet", Version: "v1.1.0"}).H1()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(sum), h1) {
		t.Errorf("go.sum does not hold %s:\n%s", h1, sum)
	}
	for kind, want := range map[Kind]int{Mod: 1, Zip: 1, Supported: 1, Lookup: 1} {
		if got := up.Counts()[kind]; got != want {
			t.Errorf("%d requests of kind %s, want %d", got, kind, want)
		}
	}
	if again := up.Repeated(); len(again) > 0 {
		t.Errorf("one go command asked twice: %v", again)
	}
}

func TestGoCommandRefusesALyingUpstream(t *testing.T) {
	w := greetWorld(t)
	db, err := w.Database("sums.test")
	if err != nil {
		t.Fatal(err)
	}
	direct := start(t, db)
	up := start(t, w)
	defer up.Break(Fault{Kinds: []Kind{Zip}, Edit: Forge})()
	g := newGo(t, "GOPROXY="+up.URL(), "GOSUMDB="+db.SpecAt(direct.URL()))
	_, err = g.Run(t.Context(), "mod", "download", "example.test/Greet@v1.0.0")
	var failed *CommandError
	if !errors.As(err, &failed) || !strings.Contains(failed.Output, "SECURITY ERROR") {
		t.Errorf("a forged zip was not refused by its hash: %v", err)
	}
}

func TestGenerateIsDeterministic(t *testing.T) {
	one, err := Generate(7, 7)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Generate(7, 7)
	if err != nil {
		t.Fatal(err)
	}
	releases := one.Releases()
	if len(releases) < 15 {
		t.Fatalf("%d releases", len(releases))
	}
	for _, r := range releases {
		a, err := r.Zip()
		if err != nil {
			t.Fatal(err)
		}
		b, err := two.Release(r.Version).Zip()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) || !bytes.Equal(r.Info, two.Release(r.Version).Info) {
			t.Errorf("%s differs between two worlds of one seed", r.Version)
		}
	}
}

func TestGeneratedWorldBuilds(t *testing.T) {
	w, err := Generate(3, 13)
	if err != nil {
		t.Fatal(err)
	}
	up := start(t, w)
	g := newGo(t, "GOPROXY="+up.URL())
	if err := g.Write("go.mod", w.GoMod("example.test/main")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Run(t.Context(), "mod", "download"); err != nil {
		t.Fatal(err)
	}
	if up.Count(Zip) != 13 {
		t.Errorf("%d zips downloaded, want 13", up.Count(Zip))
	}
	if err := g.Write("main.go", "package main\n\nimport _ \"example.test/CamelCase/M002\"\n\nfunc main() {}\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Run(t.Context(), "vet", "-mod=mod", "."); err != nil {
		t.Error(err)
	}
}

func TestFaults(t *testing.T) {
	const zipPath = "/example.test/!greet/@v/v1.0.0.zip"
	w := greetWorld(t)
	whole, err := w.Release(module.Version{Path: "example.test/Greet", Version: "v1.0.0"}).Zip()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		fault  Fault
		status int
		failed bool // reading the answer fails
		body   func([]byte) bool
	}{
		"status":    {fault: Fault{Status: 503, Text: "closed for lunch"}, status: 503, body: func(b []byte) bool { return string(b) == "closed for lunch\n" }},
		"drop":      {fault: Fault{Drop: true}, failed: true},
		"truncate":  {fault: Fault{Truncate: true}, status: 200, failed: true, body: func(b []byte) bool { return bytes.HasPrefix(whole, b) && len(b) == len(whole)/2 }},
		"short":     {fault: Fault{Short: 10}, status: 200, body: func(b []byte) bool { return len(b) == len(whole)-10 }},
		"tampered":  {fault: Fault{Edit: FlipByte}, status: 200, body: func(b []byte) bool { return len(b) == len(whole) && !bytes.Equal(b, whole) }},
		"circle":    {fault: Fault{Status: 302}, failed: true},
		"paced":     {fault: Fault{Pace: time.Millisecond}, status: 200, body: func(b []byte) bool { return bytes.Equal(b, whole) }},
		"late":      {fault: Fault{Delay: time.Millisecond}, status: 200, body: func(b []byte) bool { return bytes.Equal(b, whole) }},
		"other":     {fault: Fault{Kinds: []Kind{Mod}, Drop: true}, status: 200, body: func(b []byte) bool { return bytes.Equal(b, whole) }},
		"second":    {fault: Fault{Every: 2, Drop: true}, status: 200, body: func(b []byte) bool { return bytes.Equal(b, whole) }},
		"first one": {fault: Fault{Times: 1, Drop: true}, failed: true},
		"forged": {fault: Fault{Edit: Forge}, status: 200, body: func(b []byte) bool {
			h1, err := HashZip(b)
			true1, _ := HashZip(whole)
			return err == nil && h1 != true1
		}},
	} {
		t.Run(name, func(t *testing.T) {
			up := start(t, w)
			mend := up.Break(c.fault)
			status, body, err := get(t, up.URL()+zipPath)
			if (err != nil) != c.failed || status != c.status || c.body != nil && !c.body(body) {
				t.Errorf("status %d, %d bytes, error %v", status, len(body), err)
			}
			mend()
			status, body, err = get(t, up.URL()+zipPath)
			if err != nil || status != 200 || !bytes.Equal(body, whole) {
				t.Errorf("after mending: status %d, %d bytes, error %v", status, len(body), err)
			}
		})
	}
}

func TestHungRequestsEndWithTheServer(t *testing.T) {
	up := start(t, greetWorld(t))
	up.Break(Fault{Hang: true})
	done := make(chan error, 1)
	go func() {
		_, _, err := get(t, up.URL()+"/example.test/!greet/@v/list")
		done <- err
	}()
	if err := up.WaitInFlight(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	up.Stop()
	if err := <-done; err == nil {
		t.Error("a hung request was answered")
	}
	if _, _, err := get(t, up.URL()); err == nil {
		t.Error("a stopped server answers")
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
}

func TestGitTagsMove(t *testing.T) {
	repos, err := NewRepos(t.TempDir(), "example.test/acme")
	if err != nil {
		t.Skip(err)
	}
	repo, err := repos.Create("tool")
	if err != nil {
		t.Fatal(err)
	}
	release := func(text string) {
		t.Helper()
		if _, err := repo.Commit(map[string]string{
			"go.mod":  "module " + repos.Module("tool") + "\n\ngo 1.21\n",
			"tool.go": "package tool\n\nconst Text = \"" + text + "\"\n",
		}); err != nil {
			t.Fatal(err)
		}
		if err := repo.Tag("v1.0.0"); err != nil {
			t.Fatal(err)
		}
	}
	fetch := func() (string, error) {
		g := newGo(t, append(repos.Env(), "GOPROXY=direct")...)
		if _, err := g.Run(t.Context(), "mod", "download", repos.Module("tool")+"@v1.0.0"); err != nil {
			return "", err
		}
		text, err := os.ReadFile(filepath.Join(g.ModCache(), "example.test/acme/tool.git@v1.0.0/tool.go"))
		return string(text), err
	}
	for _, text := range []string{"first", "moved"} {
		release(text)
		if got, err := fetch(); err != nil || !strings.Contains(got, text) {
			t.Errorf("after a push of %q: %s, %v", text, got, err)
		}
	}
	if err := repo.DeleteTag("v1.0.0"); err != nil {
		t.Fatal(err)
	}
	if got, err := fetch(); err == nil {
		t.Errorf("a deleted tag still gives %q", got)
	}
}
