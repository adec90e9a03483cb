package testnet

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// leaves is a world of count modules that require nothing, which is the worst case:
// no go.mod leads to another.
func leaves(t *testing.T, count int) *outside.World {
	t.Helper()
	w := new(outside.World)
	for i := range count {
		m := module.Version{Path: leaf(i), Version: "v1.0.0"}
		if _, err := w.AddFiles(m, map[string][]byte{
			"go.mod": fmt.Appendf(nil, "module %s\n\ngo 1.21\n", m.Path),
			"a.go":   fmt.Appendf(nil, "package leaf // %d\n", i),
		}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func leaf(i int) string { return fmt.Sprintf("example.test/leaf%03d", i) }

// streams is how many streams an office opened for a protocol.
func (o *Office) streams(protocol string) int {
	o.net.t.Helper()
	return o.counter("meshproxy_exchange_streams_total", func(labels map[string]string) bool { return labels["protocol"] == protocol })
}

// TestDownloadAsksLittle counts the questions between offices that a client's
// download causes: far away each one is a round trip, and the go command asks two or
// three for each module, one after the other.
func TestDownloadAsksLittle(t *testing.T) {
	const modules = 60
	s := surround(t, leaves(t, modules))
	download := func(o *Office) {
		t.Helper()
		g := s.client(t, o)
		write(t, g, "go.mod", s.world.GoMod("example.test/project"))
		run(t, g, "mod", "download")
	}
	a := s.Found("a", s.online())
	download(a)
	b := s.Join("b", a, s.offline())
	s.Settle()
	download(b)
	for _, want := range []struct {
		protocol string
		most     int
		why      string
	}{
		{string(exchange.RecordsID), 15, "all came to the first office for one build, so they come to this one together"},
		{string(exchange.AnswersID), 15, "tree head and tiles of the checksum database; no lookup for each module"},
		{string(exchange.FilesID), modules + 5, "one for each zip"},
		{string(exchange.ClaimID), 0, "everything is held"},
	} {
		n := b.streams(want.protocol)
		t.Logf("%s: %d streams for %d modules", want.protocol, n, modules)
		if n > want.most {
			t.Errorf("%s: %d streams for %d modules, want at most %d: %s", want.protocol, n, modules, want.most, want.why)
		}
	}
	s.Check()
	s.CheckOnce(s.upstream)
}

// TestReadAheadStaysInTheMesh follows a client that asks for zips in order: the next
// ones are brought from the office that holds them, and from nowhere else.
func TestReadAheadStaysInTheMesh(t *testing.T) {
	const modules, held, asked = 24, 14, 8
	s := surround(t, leaves(t, modules))
	get := func(o *Office, i int, kind string) {
		t.Helper()
		path := "/" + leaf(i) + "/@v/v1.0.0." + kind
		if status, body, err := o.Get(path); err != nil || status != http.StatusOK {
			t.Fatalf("office %s: %s: status %d, %v: %s", o.Name, path, status, err, body)
		}
	}
	holds := func(o *Office, i int) bool {
		status, _, err := o.Get("/cached-only/" + leaf(i) + "/@v/v1.0.0.zip")
		return err == nil && status == http.StatusOK
	}
	a := s.Found("a", s.online())
	for i := range modules {
		get(a, i, "mod")
		get(a, i, "info")
	}
	for i := range held {
		get(a, i, "zip")
	}
	b := s.Join("b", a, s.online())
	s.Settle()
	for _, kind := range []string{"mod", "info"} {
		for i := range modules {
			get(b, i, kind)
		}
	}
	for i := range asked {
		get(b, i, "zip")
	}
	for i := asked; i < held; i++ {
		for end := time.Now().Add(patience); !holds(b, i); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s.zip does not come, though it is due", leaf(i))
			}
		}
	}
	for i := held; i < modules; i++ {
		if holds(b, i) {
			t.Errorf("%s.zip has come, though nobody asked for it and no office held it", leaf(i))
		}
	}
	if n := s.upstream.Count(outside.Zip); n != held {
		t.Errorf("the upstream was asked for %d zips, want the %d of the first office", n, held)
	}
	s.Check()
}
