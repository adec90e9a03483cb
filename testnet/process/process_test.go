package process_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// binary is built once for all tests.
var binary process.Binary

func TestMain(m *testing.M) {
	if to := os.Getenv(floodVariable); to != "" {
		if err := runFlood(to); err != nil {
			panic(err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "meshproxy-test-")
	if err != nil {
		panic(err)
	}
	path := filepath.Join(dir, "meshproxy")
	build := exec.Command("go", "build", "-o", path, "github.com/meshproxy/meshproxy/cmd/meshproxy")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	binary = process.Binary(path)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// scene is an upstream with a database, and offices in processes.
type scene struct {
	t        *testing.T
	world    *outside.World
	db       *outside.Database
	upstream *outside.Server
	dir      string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	w, err := outside.Generate(11, 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Pack(); err != nil {
		t.Fatal(err)
	}
	db, err := w.Database("sums.test")
	if err != nil {
		t.Fatal(err)
	}
	up, err := outside.NewServer(outside.Proxy(w, db))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Stop)
	return &scene{t, w, db, up, t.TempDir()}
}

func (s *scene) start(name string, o process.Options) *process.Office {
	s.t.Helper()
	o.SumDB = s.db.Key()
	if o.Upstream == "" {
		o.Upstream = s.upstream.URL()
	}
	office, err := binary.Start(s.t.Context(), filepath.Join(s.dir, name), o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(office.Kill)
	return office
}

func (s *scene) invite(o *process.Office) string {
	s.t.Helper()
	token, err := o.Invite(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// download gives the whole world to a go command whose module cache is empty.
func (s *scene) download(o *process.Office) error {
	s.t.Helper()
	g, err := outside.NewGo(s.t.TempDir(), "GOPROXY="+o.URL(), "GOSUMDB="+s.db.Key())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := g.Write("go.mod", s.world.GoMod("example.test/project")); err != nil {
		s.t.Fatal(err)
	}
	_, err = g.Run(s.t.Context(), "mod", "download")
	return err
}

// TestKilledOfficesKeepWhatTheyServed kills every office at once, and starts the
// one that never had an upstream.
func TestKilledOfficesKeepWhatTheyServed(t *testing.T) {
	s := newScene(t)
	a := s.start("a", process.Options{})
	if err := s.download(a); err != nil {
		t.Fatal(err)
	}
	b := s.start("b", process.Options{Token: s.invite(a), Upstream: "off"})
	if err := s.download(b); err != nil {
		t.Fatalf("%v\n%s", err, b.Log())
	}
	a.Kill()
	b.Kill()
	s.upstream.Stop()
	b = s.start("b", process.Options{Upstream: "off"})
	if err := s.download(b); err != nil {
		t.Errorf("after a crash: %v\n%s", err, b.Log())
	}
}

// TestKillDuringFetches kills an office in the middle of first fetches, some times
// over; in the end it must serve everything, with nothing torn in between.
func TestKillDuringFetches(t *testing.T) {
	s := newScene(t)
	mend := s.upstream.Break(outside.Fault{Pace: time.Millisecond})
	for _, m := range []time.Duration{100, 300, 600} {
		a := s.start("a", process.Options{})
		done := make(chan error, 1)
		go func() { done <- s.downloadQuietly(a) }()
		time.Sleep(m * time.Millisecond)
		a.Kill()
		<-done // it failed, or was done before
	}
	mend()
	a := s.start("a", process.Options{})
	if err := s.download(a); err != nil {
		t.Errorf("after crashes: %v\n%s", err, a.Log())
	}
}

// downloadQuietly is download for other goroutines than the test's.
func (s *scene) downloadQuietly(o *process.Office) error {
	for _, r := range s.world.Releases() {
		path, err := testnet.FilePath(r.Version, "zip")
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL()+path, nil)
		if err != nil {
			cancel()
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// TestFrozenOfficeHoldsNobodyUp freezes the office that has everything, while two
// others are connected to it. They must go on: with each other, with the upstream.
func TestFrozenOfficeHoldsNobodyUp(t *testing.T) {
	s := newScene(t)
	a := s.start("a", process.Options{})
	b := s.start("b", process.Options{Token: s.invite(a)})
	c := s.start("c", process.Options{Token: s.invite(a), Upstream: "off"})
	if err := s.download(a); err != nil {
		t.Fatal(err)
	}
	if err := a.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := s.download(b); err != nil {
		t.Errorf("an office with an upstream: %v\n%s", err, b.Log())
	}
	if err := s.download(c); err != nil {
		t.Errorf("an office without one: %v\n%s", err, c.Log())
	}
	if err := a.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := s.download(a); err != nil {
		t.Errorf("the office that was frozen: %v\n%s", err, a.Log())
	}
}

func TestStopEndsWithStatusZero(t *testing.T) {
	s := newScene(t)
	a := s.start("a", process.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestStartReportsWhyAnOfficeExited(t *testing.T) {
	s := newScene(t)
	a := s.start("a", process.Options{})
	_, err := binary.Start(t.Context(), filepath.Join(s.dir, "b"), process.Options{
		Upstream: "off", SumDB: "off", Flags: []string{"--listen", strings.TrimPrefix(a.URL(), "http://")},
	})
	if !errors.Is(err, process.ErrExited) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a taken port: %v", err)
	}
}
