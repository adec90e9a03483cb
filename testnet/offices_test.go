package testnet

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

func generated(t *testing.T, seed uint64, modules int) *outside.World {
	t.Helper()
	w, err := outside.Generate(seed, modules)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestSecondOfficeNeedsNoUpstream is the whole point: what one office fetched the
// next one has, hash by hash, and keeps when the first is gone.
func TestSecondOfficeNeedsNoUpstream(t *testing.T) {
	s := surround(t, generated(t, 1, 16))
	download := func(o *Office) {
		t.Helper()
		g := s.client(t, o)
		write(t, g, "go.mod", s.world.GoMod("example.test/project"))
		run(t, g, "mod", "download")
	}
	a := s.Found("a", s.online())
	download(a)
	zips := s.upstream.Count(outside.Zip)
	if zips != 16 {
		t.Fatalf("the first download took %d zips from the upstream, want 16", zips)
	}
	b := s.Join("b", a, s.offline())
	s.Settle()
	download(b)
	if n, _ := b.Served("peer"); n == 0 {
		t.Error("office b served nothing from a peer")
	}
	s.Check()
	asked := s.upstream.Count()
	a.Stop()
	s.upstream.Stop()
	download(b)
	b.Restart()
	download(b)
	s.Check()
	s.CheckOnce(s.upstream)
	if now := s.upstream.Count(); now != asked {
		t.Errorf("%d requests reached the upstream after it was of no use", now-asked)
	}
}

// TestFirstFetchHappensOnceInTheMesh asks every office for the same release at
// once, release by release: more at a time would try the machine, not the mesh.
func TestFirstFetchHappensOnceInTheMesh(t *testing.T) {
	s := surround(t, generated(t, 2, 7))
	all := s.Start(4, s.online())
	for _, r := range s.world.Releases() {
		var wg sync.WaitGroup
		for _, o := range all {
			for _, kind := range []string{"info", "mod", "zip"} {
				path, err := FilePath(r.Version, kind)
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					if status, body, err := o.Get(path); err != nil || status != http.StatusOK {
						t.Errorf("office %s: %s: status %d, %v: %.300s", o.Name, path, status, err, body)
					}
				})
			}
		}
		wg.Wait()
	}
	s.CheckOnce(s.upstream)
	if got, want := s.upstream.Count(outside.Zip), len(s.world.Releases()); got < want {
		t.Errorf("%d zips asked for, want %d", got, want)
	}
	s.Check()
}

// TestModCostsNoZip holds the economy of small questions.
func TestModCostsNoZip(t *testing.T) {
	s := surround(t, archiveWorld(t))
	a := s.Found("a", s.online())
	a.MustGet("/example.test/greet/@v/v1.0.0.mod")
	a.MustGet("/example.test/greet/@v/v1.0.0.mod")
	counts := s.upstream.Counts()
	if counts[outside.Mod] != 1 || counts[outside.Zip] != 0 || counts[outside.Info] != 0 {
		t.Errorf("two requests for a go.mod cost %v", counts)
	}
}

// TestOutageIsNoAnswer breaks the upstream in every way. Whatever happens, the
// office must not say that a module does not exist, must not serve a byte that the
// database does not vouch for, and must recover when the upstream does.
func TestOutageIsNoAnswer(t *testing.T) {
	const path = "/example.test/greet/@v/v1.0.0.zip"
	for name, fault := range map[string]outside.Fault{
		"internal error": {Status: 500, Text: "the disk is full"},
		"unavailable":    {Status: 503, Text: "come back later"},
		"cut":            {Drop: true},
		"truncated":      {Kinds: []outside.Kind{outside.Zip}, Truncate: true},
		"short":          {Kinds: []outside.Kind{outside.Zip}, Short: 100},
		"bit flipped":    {Kinds: []outside.Kind{outside.Zip}, Edit: outside.FlipByte},
		"forged":         {Kinds: []outside.Kind{outside.Zip}, Edit: outside.Forge},
		"circle":         {Kinds: []outside.Kind{outside.Zip}, Status: 302},
		"empty":          {Kinds: []outside.Kind{outside.Zip}, Edit: func(outside.Request, []byte) []byte { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			s := surround(t, archiveWorld(t))
			a := s.Found("a", s.online())
			mend := s.upstream.Break(fault)
			status, body, err := a.Get(path)
			// 403 is a refusal, in the office's own name, of what does not check.
			if err == nil && status < 500 && status != http.StatusForbidden {
				t.Errorf("status %d: %.300s", status, body)
			}
			if held := a.Releases(); len(held) > 0 {
				t.Errorf("the office holds %v", held)
			}
			mend()
			a.untilServed(path)
			s.Check()
		})
	}
}

// untilServed asks until the office answers: a failure may be remembered briefly.
func (o *Office) untilServed(path string) {
	o.net.t.Helper()
	var last string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		status, body, err := o.Get(path)
		if err == nil && status == http.StatusOK {
			return
		}
		last = fmt.Sprintf("status %d, %v: %.300s", status, err, body)
	}
	o.net.t.Errorf("office %s: %s: not served after %v: %s", o.Name, path, patience, last)
}

// TestMissingIsMissing keeps a true "not found" one.
func TestMissingIsMissing(t *testing.T) {
	s := surround(t, archiveWorld(t))
	a := s.Found("a", s.online())
	for path, want := range map[string]int{
		"/example.test/greet/@v/v9.9.9.info":  404,
		"/example.test/nobody/@v/list":        404,
		"/example.test/nobody/@v/v1.0.0.zip":  404,
		"/example.test/Greet/@v/list":         400,
		"/example.test/greet/@v/v1.0.0.mod":   200,
		"/example.test/greet/@v/../../secret": 400,
	} {
		status, body, err := a.Get(path)
		if want == 400 {
			if err != nil || status < 400 || status > 499 {
				t.Errorf("%s: status %d, %v: %.300s", path, status, err, body)
			}
		} else if err != nil || status != want {
			t.Errorf("%s: status %d, want %d, %v: %.300s", path, status, want, err, body)
		}
	}
}

// TestHungFetchesLeaveCachedAnswersAlone hangs thirty cold fetches; what is held
// must be served meanwhile.
func TestHungFetchesLeaveCachedAnswersAlone(t *testing.T) {
	s := surround(t, archiveWorld(t))
	a := s.Found("a", s.online())
	a.MustGet("/example.test/greet/@v/v1.0.0.zip")
	a.MustGet("/example.test/greet/@v/v1.0.0.info")
	mend := s.upstream.Break(outside.Fault{Hang: true})
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() { a.Get(fmt.Sprintf("/example.test/hang%d/@v/v1.0.0.info", i)) })
	}
	if err := s.upstream.WaitInFlight(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		a.MustGet("/example.test/greet/@v/v1.0.0.zip")
		a.MustGet("/example.test/greet/@v/v1.0.0.info")
	}
	mend()
	s.upstream.Stop()
	wg.Wait()
}

// TestMovedTagChangesNothing fetches from a git repository whose tag is then
// moved, then deleted, and which is then destroyed.
func TestMovedTagChangesNothing(t *testing.T) {
	repos, err := outside.NewRepos(t.TempDir(), "example.test/acme")
	if err != nil {
		t.Skip(err)
	}
	for _, kv := range repos.Env() { // for the go command that offices run
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	repo, err := repos.Create("tool")
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	release := func(text string) {
		t.Helper()
		_, err := repo.Commit(map[string]string{
			"go.mod":  "module " + repos.Module("tool") + "\n\ngo 1.21\n",
			"tool.go": "package tool\n\nconst Text = \"" + text + "\"\n",
		})
		must(err)
		must(repo.Tag("v1.0.0"))
	}
	release("first")
	n := New(t)
	a := n.Found("a", node.Config{Upstream: "direct"})
	n.Join("b", a, node.Config{Upstream: "direct"})
	n.Settle()
	const path = "/example.test/acme/tool.git/@v/v1.0.0.zip"
	first := string(a.MustGet(path))
	for _, change := range []struct {
		name string
		make func()
	}{
		{"moved", func() { release("moved") }},
		{"deleted", func() { must(repo.DeleteTag("v1.0.0")) }},
		{"destroyed with its repository", func() { must(repo.Destroy()); a.Restart(); n.Settle() }},
	} {
		change.make()
		for _, o := range n.Offices() {
			if string(o.MustGet(path)) != first {
				t.Errorf("office %s serves other bytes after the tag was %s", o.Name, change.name)
			}
		}
	}
	n.Check()
}

// TestSumsComeFromOtherOfficesFirst: an office without an upstream often cannot
// reach the checksum database either, and should not try while others know.
func TestSumsComeFromOtherOfficesFirst(t *testing.T) {
	s := surround(t, archiveWorld(t))
	database, err := outside.NewServer(s.db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(database.Stop)
	a := s.Found("a", s.online())
	run(t, s.client(t, a), "mod", "download", "example.test/greet@v1.0.0")
	b := s.Join("b", a, node.Config{Upstream: "off", SumDB: s.db.SpecAt(database.URL())})
	s.Settle()
	run(t, s.client(t, b), "mod", "download", "example.test/greet@v1.0.0")
	if n := database.Count(); n > 0 {
		t.Errorf("the database was asked %d times for what office a knows: %v", n, database.Counts())
	}
}
