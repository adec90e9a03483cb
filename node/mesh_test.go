package node_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

func TestMesh(t *testing.T) {
	t.Run("an office without upstream has what another one fetched", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		for _, kind := range []string{"info", "mod", "zip"} {
			a.want(one, 200, tagged+"v1.0.0."+kind)
		}
		a.want(one, 200, tagged+"list")
		two := a.Join("two", one, a.offline())
		a.Settle()
		a.upstream.Stop()
		for _, kind := range []string{"zip", "mod", "info"} {
			if got, want := a.want(two, 200, tagged+"v1.0.0."+kind), a.want(one, 200, tagged+"v1.0.0."+kind); got != want {
				t.Errorf("the .%s of the two offices differ", kind)
			}
		}
		if got := a.want(two, 200, tagged+"list"); got != "v1.0.0\nv1.1.0\n" {
			t.Errorf("list is %q in the other office", got)
		}
		a.wantText(two, 200, "/sumdb/sums.test/lookup/example.test/tagged@v1.0.0", "h1:")
		a.wantText(two, 404, tagged+"v1.1.0.zip", "none of the 1 connected offices has it", "upstream: off")
		one.Stop()
		a.want(two, 200, tagged+"v1.0.0.zip")
		a.Check()
	})
	t.Run("without the others an office says so, and not that there is nothing", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		two := a.Join("two", one, a.offline())
		a.Settle()
		one.Stop()
		a.eventually(two, 503, tagged+"v1.0.0.zip")
		a.wantText(two, 503, tagged+"v1.1.0.mod", "none of the 1 other offices is connected", "upstream: off")
	})
	t.Run("offices that ask at once fetch once", func(t *testing.T) {
		a := newAround(t)
		all := a.Start(3, a.online())
		var wg sync.WaitGroup
		for _, o := range all {
			for range 5 {
				wg.Go(func() {
					if status, body, err := o.Get(tagged + "v1.0.0.zip"); err != nil || status != 200 {
						t.Errorf("office %s: status %d, %v: %.200s", o.Name, status, err, body)
					}
				})
			}
		}
		wg.Wait()
		a.wantCounts(map[outside.Kind]int{outside.Zip: 1})
	})
	t.Run("in an outage another office's list counts", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		a.want(one, 200, tagged+"list")
		a.want(one, 200, "/example.test/tagged/@latest")
		two := a.Join("two", one, node.Config{Upstream: "http://127.0.0.1:1", SumDB: a.db.Key(), Refresh: time.Nanosecond})
		a.Settle()
		a.upstream.Stop()
		if got := a.want(two, 200, tagged+"list"); got != "v1.0.0\nv1.1.0\n" {
			t.Errorf("list is %q in the office without upstream", got)
		}
		a.wantText(two, 200, "/example.test/tagged/@latest", `"v1.1.0"`)
	})
	t.Run("a large zip is the same when it is passed on while it arrives", func(t *testing.T) {
		a := newAround(t)
		large := make([]byte, 3<<20)
		rand.NewChaCha8([32]byte{1}).Read(large)
		m := module.Version{Path: "example.test/large", Version: "v1.0.0"}
		if _, err := a.world.AddFiles(m, map[string][]byte{"go.mod": []byte("module example.test/large\n"), "large.bin": large}); err != nil {
			t.Fatal(err)
		}
		one := a.Found("one", a.online())
		want := a.want(one, 200, "/example.test/large/@v/v1.0.0.zip")
		two := a.Join("two", one, a.offline())
		a.Settle()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if _, body, err := two.Get("/example.test/large/@v/v1.0.0.zip"); err != nil || string(body) != want {
					t.Errorf("%d bytes, %v; want the %d that office one gives", len(body), err, len(want))
				}
			})
		}
		all.Wait()
		if answers, bytes := two.Served("peer one"); answers != 4 || bytes != 4*int64(len(want)) {
			t.Errorf("%d answers of %d bytes are counted as from office one, want 4 of %d", answers, bytes, 4*len(want))
		}
		a.Check()
	})
	t.Run("a go.mod brings those along that it requires", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		for _, m := range []string{"top/@v/v1.0.0", "middle/@v/v1.0.0", "tagged/@v/v1.1.0"} {
			a.want(one, 200, "/example.test/"+m+".mod")
		}
		two := a.Join("two", one, a.online())
		a.Settle()
		a.upstream.Reset()
		a.want(two, 200, "/example.test/top/@v/v1.0.0.mod")
		a.eventually(two, 200, "/cached-only/example.test/tagged/@v/v1.1.0.mod")
		a.eventually(two, 200, "/cached-only/example.test/middle/@v/v1.0.0.mod")
		a.wantCounts(map[outside.Kind]int{outside.Mod: 0})
	})
	t.Run("what a node fetched before it joined is good in the mesh", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.offline())
		two := a.Found("two", a.online())
		a.want(two, 200, tagged+"v1.0.0.zip")
		token := one.Invite(node.Invitation{Role: "member", TTL: patience, Uses: 1})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := two.Node().Join(ctx, token); err != nil {
			t.Fatal(err)
		}
		a.Settle()
		a.upstream.Stop()
		a.want(one, 200, tagged+"v1.0.0.zip")
	})
}
