package node_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

func TestMutable(t *testing.T) {
	const list, latest = tagged + "list", "/example.test/tagged/@latest"
	t.Run("a list is asked for once while it is fresh", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		for range 3 {
			if got := a.want(o, 200, list); got != "v1.0.0\nv1.1.0\n" {
				t.Errorf("list is %q", got)
			}
		}
		a.wantCounts(map[outside.Kind]int{outside.List: 1})
	})
	t.Run("a list is asked for again when it is stale", func(t *testing.T) {
		a := newAround(t)
		c := a.online()
		c.Refresh = time.Nanosecond
		o := a.Found("a", c)
		a.want(o, 200, list)
		if err := a.world.AddArchive("-- example.test/tagged@v1.2.0/go.mod --\nmodule example.test/tagged\n"); err != nil {
			t.Fatal(err)
		}
		if got := a.want(o, 200, list); got != "v1.0.0\nv1.1.0\nv1.2.0\n" {
			t.Errorf("list is %q after a release", got)
		}
	})
	t.Run("pseudo-versions are no part of a list, and the newest version of a module without tags", func(t *testing.T) {
		a := newAround(t)
		a.world.NoLatest = true
		a.upstream.Break(outside.Fault{Kinds: []outside.Kind{outside.List}, Path: "untagged",
			Edit: func(outside.Request, []byte) []byte { return []byte(pseudo + "\n") }})
		o := a.Found("a", a.online())
		if got := a.want(o, 200, untagged+"list"); got != "" {
			t.Errorf("list is %q, want none", got)
		}
		a.wantText(o, 200, "/example.test/untagged/@latest", pseudo)
	})
	t.Run("a branch is a query", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.wantText(o, 200, tagged+"main.info", `"v1.1.0"`)
		a.wantText(o, 404, tagged+"nowhere.info", "unknown revision nowhere")
	})
	t.Run("what does not exist is 404", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.want(o, 404, "/example.test/none/@v/list")
		a.want(o, 404, "/example.test/none/@latest")
	})
	t.Run("in an outage the last answer counts, with its age", func(t *testing.T) {
		a := newAround(t)
		c := a.online()
		c.Refresh = time.Second
		o := a.Found("a", c)
		a.want(o, 200, list)
		a.want(o, 200, latest)
		a.want(o, 200, tagged+"main.info")
		a.upstream.Stop()
		time.Sleep(1100 * time.Millisecond) // until they are stale, which only time can make them
		if got := a.want(o, 200, list); got != "v1.0.0\nv1.1.0\n" {
			t.Errorf("list is %q in an outage", got)
		}
		age, err := strconv.Atoi(a.header(o, list, "Age"))
		if err != nil || age < 1 {
			t.Errorf("age %d, %v: want at least a second", age, err)
		}
		a.wantText(o, 200, latest, `"v1.1.0"`)
		a.wantText(o, 200, tagged+"main.info", `"v1.1.0"`)
	})
	t.Run("in an outage what is held is listed", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("a", a.online())
		a.want(o, 200, tagged+"v1.0.0.info")
		a.want(o, 200, untagged+pseudo+".info")
		a.upstream.Stop()
		if got := a.want(o, 200, list); got != "v1.0.0\n" {
			t.Errorf("list is %q, want what is held", got)
		}
		a.wantText(o, 200, latest, `"v1.0.0"`)
		a.wantText(o, 200, "/example.test/untagged/@latest", pseudo)
		a.wantText(o, 503, "/example.test/other/@v/list", "connection refused")
		a.wantText(o, 503, tagged+"main.info", "connection refused")
	})
}

func TestSumDB(t *testing.T) {
	a := newAround(t)
	o := a.Found("a", a.online())
	a.want(o, 200, "/sumdb/sums.test/supported")
	a.want(o, 404, "/sumdb/other.test/supported")
	a.wantText(o, 200, "/sumdb/sums.test/lookup/example.test/tagged@v1.0.0", "example.test/tagged v1.0.0 h1:", "example.test/tagged v1.0.0/go.mod h1:")
	a.wantText(o, 200, "/sumdb/sums.test/latest", "go.sum database tree")
	a.want(o, 400, "/sumdb/sums.test/tile/8/x")
	a.upstream.Stop()
	a.wantText(o, 200, "/sumdb/sums.test/lookup/example.test/tagged@v1.0.0", "example.test/tagged v1.0.0 h1:")
	a.wantText(o, 503, "/sumdb/sums.test/lookup/example.test/tagged@v1.1.0", "checksum database")
}
