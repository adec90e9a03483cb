package node_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

func TestFile(t *testing.T) {
	kinds := func(info, mod, zip int) map[outside.Kind]int {
		return map[outside.Kind]int{outside.Info: info, outside.Mod: mod, outside.Zip: zip}
	}
	t.Run("each file costs one request, and no file costs another", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.want(o, 200, tagged+"v1.0.0.mod")
		a.wantCounts(kinds(0, 1, 0))
		a.want(o, 200, tagged+"v1.0.0.info")
		a.wantCounts(kinds(1, 1, 0))
		a.want(o, 200, tagged+"v1.0.0.zip")
		for range 3 {
			for _, kind := range []string{"info", "mod", "zip"} {
				a.want(o, 200, tagged+"v1.0.0."+kind)
			}
		}
		a.wantCounts(kinds(1, 1, 1))
		a.wantCounts(map[outside.Kind]int{outside.Lookup: 1})
		for path, n := range a.upstream.Repeated() {
			t.Errorf("upstream was asked %d times for %s", n, path)
		}
	})
	t.Run("what is held outlives the upstream and the process", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		body := a.want(o, 200, tagged+"v1.0.0.zip")
		tag := a.header(o, tagged+"v1.0.0.zip", "Etag")
		a.upstream.Stop()
		o.Restart()
		if got := a.want(o, 200, tagged+"v1.0.0.zip"); got != body {
			t.Error("the zip has other bytes after a restart")
		}
		if got := a.header(o, tagged+"v1.0.0.zip", "Etag"); got != tag || tag == "" {
			t.Errorf("entity tag %q after a restart, %q before", got, tag)
		}
		if got := a.header(o, tagged+"v1.0.0.zip", "Meshproxy-Source"); got != "store" {
			t.Errorf("source %q, want store", got)
		}
	})
	t.Run("identical requests share one fetch", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		mend := a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.Zip}, Delay: 300 * time.Millisecond})
		defer mend()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if status, body, err := o.Get(tagged + "v1.0.0.zip"); err != nil || status != 200 {
					t.Errorf("status %d, %v: %.200s", status, err, body)
				}
			})
		}
		all.Wait()
		a.wantCounts(kinds(0, 0, 1))
	})
	t.Run("a fetch outlives the client that started it", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		mend := a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.Zip}, Delay: 500 * time.Millisecond})
		defer mend()
		ctx, hangUp := context.WithCancel(t.Context())
		go func() {
			wait, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := a.upstream.WaitInFlight(wait, 1); err != nil {
				t.Error(err)
			}
			hangUp()
		}()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL()+tagged+"v1.0.0.zip", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			t.Fatal("the client that hung up got an answer")
		}
		a.want(o, 200, tagged+"v1.0.0.zip")
		a.wantCounts(kinds(0, 0, 1))
	})
	t.Run("hung fetches do not hold up what is held", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.want(o, 200, tagged+"v1.0.0.mod")
		a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.Info, outside.Zip}, Hang: true})
		ctx, cancel := context.WithCancel(t.Context())
		var hung sync.WaitGroup
		for _, path := range []string{tagged + "v1.0.0.zip", tagged + "v1.1.0.zip", untagged + pseudo + ".zip", tagged + "v1.0.0.info", tagged + "v1.1.0.info"} {
			for range 6 {
				hung.Go(func() {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL()+path, nil)
					if err != nil {
						t.Error(err)
						return
					}
					if resp, err := http.DefaultClient.Do(req); err == nil {
						resp.Body.Close()
						t.Errorf("%s was answered by a hung upstream", path)
					}
				})
			}
		}
		if err := a.upstream.WaitInFlight(ctx, 5); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			a.want(o, 200, tagged+"v1.0.0.mod")
		}
		cancel()
		hung.Wait()
	})
	t.Run("cached-only fetches nothing", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.wantText(o, 404, "/cached-only"+tagged+"v1.0.0.mod", "forbids")
		a.wantCounts(kinds(0, 0, 0))
		a.want(o, 200, tagged+"v1.0.0.mod")
		a.want(o, 200, "/cached-only"+tagged+"v1.0.0.mod")
	})
}

func TestFileRefused(t *testing.T) {
	t.Run("what does not exist is 404 with the upstream's words", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.wantText(o, 404, tagged+"v9.0.0.info", "unknown revision v9.0.0")
	})
	t.Run("an outage is no 404, says what was tried, and passes", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.upstream.Stop()
		a.wantText(o, 503, tagged+"v1.0.0.info", "no other office is known", "connection refused")
		if err := a.upstream.Start(); err != nil {
			t.Fatal(err)
		}
		a.eventually(o, 200, tagged+"v1.0.0.info")
	})
	t.Run("content that the database does not know as such is refused and not kept", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		mend := a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.Zip, outside.Mod}, Edit: outside.Forge})
		a.wantText(o, 403, tagged+"v1.0.0.zip", "checksum database sums.test says h1:", "fetched content says h1:")
		a.wantText(o, 403, tagged+"v1.0.0.mod", "checksum database sums.test says h1:")
		mend()
		a.eventually(o, 200, tagged+"v1.0.0.zip")
		a.eventually(o, 200, tagged+"v1.0.0.mod")
	})
	t.Run("a broken zip is refused with the reason", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		defer a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.Zip}, Edit: outside.FlipByte})()
		a.wantText(o, 502, tagged+"v1.0.0.zip", "example.test/tagged@v1.0.0.zip")
	})
	t.Run("without a database nothing public is admitted", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		defer a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.Lookup}, Status: 500, Text: "on fire"})()
		a.wantText(o, 503, tagged+"v1.0.0.mod", "checksum database")
		a.want(o, 200, tagged+"v1.0.0.info") // which no database knows
	})
	t.Run("a private module needs no database", func(t *testing.T) {
		a := newAround(t)
		c := a.online()
		c.NoSumDB = "example.test/private"
		o := a.Found("a", c)
		a.want(o, 200, "/example.test/private/x/@v/v1.0.0.zip")
		a.wantCounts(map[outside.Kind]int{outside.Lookup: 0})
	})
	t.Run("a second content for a name is a conflict, and the first stays", func(t *testing.T) {
		a := newAround(t)
		c := a.online()
		c.SumDB = "off"
		first := a.Found("a", c)
		body := a.want(first, 200, tagged+"v1.0.0.zip")
		second := a.Found("b", c)
		a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.Zip}, Edit: outside.Forge})
		a.want(second, 200, tagged+"v1.0.0.zip") // nobody here to say otherwise
		if got := a.want(first, 200, tagged+"v1.0.0.zip"); got != body {
			t.Error("the first content did not stay")
		}
	})
}
