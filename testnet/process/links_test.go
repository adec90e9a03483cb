package process_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/toxic"
)

// TestSlowLinksWithoutRoot joins offices by links that need no root, cuts one of them
// off, and heals it. All that offices say to each other passes the links: nobody
// learns where else an office could be dialled.
func TestSlowLinksWithoutRoot(t *testing.T) {
	s := newScene(t)
	links := toxic.New(toxic.Path{Latency: 10 * time.Millisecond})
	t.Cleanup(func() {
		if err := links.Close(); err != nil {
			t.Error(err)
		}
	})
	attach := func(name string) (*toxic.Site, process.Options) {
		t.Helper()
		site, err := links.Attach(name, 50_000_000)
		if err != nil {
			t.Fatal(err)
		}
		return site, process.Options{P2P: []string{site.P2P()}, Flags: []string{"--no-lan", "--announce", site.Front()}}
	}
	placeA, options := attach("a")
	a := s.start("a", options)
	releases := s.world.Releases()
	first, second := releases[0], releases[1]
	s.until(a, first, http.StatusOK)
	s.until(a, second, http.StatusOK)
	placeB, options := attach("b")
	options.Token, options.Upstream = s.invite(a), "off"
	b := s.start("b", options)
	s.until(b, first, http.StatusOK)
	held, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var carried int64
	for _, l := range links.Traffic() {
		if l.From == placeA && l.To == placeB {
			carried = l.Bytes
		}
	}
	if carried < held.Store.Stored {
		t.Errorf("%d bytes went over the link to an office that holds %d: it was reached in another way", carried, held.Store.Stored)
	}
	if err := links.Cut(placeA, placeB, true); err != nil {
		t.Fatal(err)
	}
	s.until(b, second, http.StatusServiceUnavailable)
	if err := links.Cut(placeA, placeB, false); err != nil {
		t.Fatal(err)
	}
	s.until(b, second, http.StatusOK)
}

// until asks an office for a zip until that is the status.
func (s *scene) until(o *process.Office, r *outside.Release, want int) {
	s.t.Helper()
	path, err := testnet.FilePath(r.Version, "zip")
	if err != nil {
		s.t.Fatal(err)
	}
	url := o.URL() + path
	status := 0
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var resp *http.Response
		if resp, err = http.Get(url); err == nil {
			status = resp.StatusCode
			if err = resp.Body.Close(); status == want {
				return
			}
		}
	}
	s.t.Fatalf("%s: status %d, want %d, %v\n%s", url, status, want, err, o.Log())
}
