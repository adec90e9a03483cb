package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/verify"
)

// gc drops all that an office may drop.
func gc(t *testing.T, o *testnet.Office) *node.Collected {
	t.Helper()
	r, err := o.Node().GC(context.Background(), node.Limits{MaxSize: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGC(t *testing.T) {
	t.Run("the last copy in the mesh stays, whoever asks first", func(t *testing.T) {
		a := newAround(t)
		all := a.Start(3, a.online())
		for _, o := range all {
			a.want(o, 200, tagged+"v1.0.0.zip")
		}
		a.Settle()
		dropped := make([]int, len(all))
		var wg sync.WaitGroup
		for i, o := range all {
			wg.Go(func() {
				r, err := o.Node().GC(context.Background(), node.Limits{MaxSize: 1}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				dropped[i] = len(r.Dropped)
			})
		}
		wg.Wait()
		left := 0
		for i, o := range all {
			if n := o.Status().Store.Zips; n+dropped[i] != 1 {
				t.Errorf("office %s dropped %d zips and holds %d", o.Name, dropped[i], n)
			} else {
				left += n
			}
		}
		if left == 0 {
			t.Fatal("no copy is left")
		}
		a.upstream.Stop()
		for _, o := range all {
			a.want(o, 200, tagged+"v1.0.0.zip")
		}
		a.Check()
	})
	t.Run("one of two copies goes, and the other is where it is asked for", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		two := a.Join("two", one, a.offline())
		a.want(one, 200, tagged+"v1.0.0.zip")
		a.want(two, 200, tagged+"v1.0.0.zip")
		plan, err := one.Node().GC(context.Background(), node.Limits{MaxSize: 1, DryRun: true}, nil)
		if err != nil || len(plan.Dropped) != 1 || one.Status().Store.Zips != 1 {
			t.Fatalf("dry run: %+v, %v", plan, err)
		}
		if r := gc(t, one); len(r.Dropped) != 1 || len(r.Kept) != 0 {
			t.Errorf("the first copy: %+v", r)
		}
		if r := gc(t, two); len(r.Dropped) != 0 || len(r.Kept) != 1 {
			t.Errorf("the last copy: %+v", r)
		}
		if u := one.Status().Upkeep; u.Dropped != 1 || u.Collected.IsZero() {
			t.Errorf("status of the first office: %+v", u)
		}
		a.upstream.Stop()
		a.want(one, 200, tagged+"v1.0.0.zip")
	})
	t.Run("with the others out of reach nothing goes", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		two := a.Join("two", one, a.offline())
		a.want(one, 200, tagged+"v1.0.0.zip")
		a.want(two, 200, tagged+"v1.0.0.zip")
		two.Stop()
		if r := gc(t, one); len(r.Dropped) != 0 || len(r.Kept) != 1 {
			t.Errorf("alone: %+v", r)
		}
	})
	t.Run("what is pinned stays", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		a.want(one, 200, tagged+"v1.0.0.zip")
		a.want(one, 200, tagged+"v1.1.0.zip")
		if err := one.Node().Pin(context.Background(), "example.test/tagged@v1.0.*"); err != nil {
			t.Fatal(err)
		}
		r := gc(t, one)
		if len(r.Dropped) != 1 || r.Dropped[0].Version.Version != "v1.1.0" || r.Pinned != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// proxyTree writes the world as a GOPROXY of files, with .info files as the go
// command keeps them of modules that it fetched from a repository.
func (a *around) proxyTree() string {
	a.t.Helper()
	dir := a.t.TempDir()
	for _, r := range a.world.Releases() {
		base := filepath.Join(dir, filepath.FromSlash(r.Path), "@v", r.Version.Version)
		zip, err := r.Zip()
		if err != nil {
			a.t.Fatal(err)
		}
		info := fmt.Appendf(nil, `{"Version":%q,"Time":%q,"Origin":{"VCS":"git"}}`, r.Version.Version, r.Time.Format(time.RFC3339))
		if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
			a.t.Fatal(err)
		}
		for ext, data := range map[string][]byte{".info": info, ".mod": r.Mod, ".zip": zip} {
			if err := os.WriteFile(base+ext, data, 0o644); err != nil {
				a.t.Fatal(err)
			}
		}
	}
	return dir
}

func TestImport(t *testing.T) {
	t.Run("a tree comes in verified, once, and the mesh hears of it", func(t *testing.T) {
		a := newAround(t)
		dir := a.proxyTree()
		cfg := a.online()
		cfg.NoSumDB = "example.test/private/*"
		one := a.Found("one", cfg)
		files := int64(3 * len(a.world.Releases()))
		r, err := one.Node().Import(context.Background(), node.Tree{Dir: dir}, nil)
		if err != nil || r.Files != files || r.Refusals != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		if n := a.upstream.Count(outside.Zip, outside.Mod, outside.Info); n != 0 {
			t.Errorf("%d files were fetched for an import", n)
		}
		if r, err = one.Node().Import(context.Background(), node.Tree{Dir: dir}, nil); err != nil || r.Files != 0 || r.Skipped != files {
			t.Errorf("again: %+v, %v", r, err)
		}
		two := a.Join("two", one, a.offline())
		a.Settle()
		a.want(two, 200, tagged+"v1.0.0.zip")
		a.Check()
	})
	t.Run("what another office says an .info is counts", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		want := a.want(one, 200, tagged+"v1.0.0.info")
		two := a.Join("two", one, a.online())
		a.Settle()
		if _, err := two.Node().Import(context.Background(), node.Tree{Dir: a.proxyTree()}, nil); err != nil {
			t.Fatal(err)
		}
		a.Settle()
		if got := a.want(two, 200, tagged+"v1.0.0.info"); got != want {
			t.Errorf("the .info is %s in one office and %s in the other", want, got)
		}
		for _, o := range []*testnet.Office{one, two} {
			if n := o.Status().Conflicts; n != 0 {
				t.Errorf("office %s: %d conflicts", o.Name, n)
			}
		}
	})
	t.Run("a file that the checksum database knows otherwise is refused", func(t *testing.T) {
		a := newAround(t)
		dir := a.proxyTree()
		mod := filepath.Join(dir, "example.test", "tagged", "@v", "v1.0.0.mod")
		if err := os.WriteFile(mod, []byte("module example.test/tagged // tampered\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		one := a.Found("one", a.online())
		r, err := one.Node().Import(context.Background(), node.Tree{Dir: dir}, nil)
		if err != nil || r.Refusals != 1 || r.Refused[0].File != "example.test/tagged/@v/v1.0.0.mod" || !strings.Contains(r.Refused[0].Reason, "h1:") {
			t.Fatalf("%+v, %v", r, err)
		}
		a.Check()
	})
	t.Run("an interrupted import stops at once and goes on later", func(t *testing.T) {
		a := newAround(t)
		if err := a.world.Grow(1, outside.Shape{Path: "example.test/many", Versions: versions(40), Files: 2}); err != nil {
			t.Fatal(err)
		}
		dir := a.proxyTree()
		one := a.Found("one", a.online())
		ctx, end := context.WithCancel(context.Background())
		var once sync.Once
		if _, err := one.Node().Import(ctx, node.Tree{Dir: dir}, progressOnce(&once, end)); !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted: %v", err)
		}
		r, err := one.Node().Import(context.Background(), node.Tree{Dir: dir}, nil)
		if err != nil || r.Refusals != 0 || r.Skipped == 0 || r.Skipped+r.Files != int64(3*len(a.world.Releases())) {
			t.Fatalf("resumed: %+v, %v", r, err)
		}
		a.Check()
	})
	t.Run("when nobody can vouch it ends and says so", func(t *testing.T) {
		a := newAround(t)
		if err := a.world.Grow(1, outside.Shape{Path: "example.test/many", Versions: versions(40), Files: 2}); err != nil {
			t.Fatal(err)
		}
		dir := a.proxyTree()
		one := a.Found("one", a.online())
		a.upstream.Stop()
		_, err := one.Node().Import(context.Background(), node.Tree{Dir: dir}, nil)
		if !errors.Is(err, verify.ErrUnavailable) || !strings.Contains(err.Error(), "do the same again") {
			t.Fatalf("%v", err)
		}
	})
}

func TestPrefetch(t *testing.T) {
	a := newAround(t)
	one := a.Found("one", a.online())
	names := []verify.Name{}
	for _, kind := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		for _, r := range a.world.Releases() {
			names = append(names, verify.Name{Module: r.Version, Kind: kind})
		}
	}
	gone := names[0]
	gone.Module.Version = "v9.9.9"
	r, err := one.Node().Prefetch(context.Background(), append(names, gone), nil)
	if err != nil || r.Files+r.Skipped != int64(len(names)) || r.Refusals != 1 || r.Refused[0].File != gone.String() {
		t.Fatalf("%+v, %v", r, err)
	}
	a.upstream.Stop()
	for _, r := range a.world.Releases() {
		a.want(one, 200, "/"+r.Path+"/@v/"+r.Version.Version+".zip")
	}
}

func versions(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("v1.%d.0", i)
	}
	return list
}

// progressOnce calls f when half of something is done.
func progressOnce(once *sync.Once, f func()) func(store.Progress) {
	return func(p store.Progress) {
		if p.Done*2 > p.Total {
			once.Do(f)
		}
	}
}

// TestExportGetsWhatIsMissing: an export of what a project needs has all of it,
// also what nobody has asked this office for before.
func TestExportGetsWhatIsMissing(t *testing.T) {
	a := newAround(t)
	one := a.Found("one", a.online())
	m := a.world.Releases()[0].Version
	var want []verify.Name
	for _, kind := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		want = append(want, verify.Name{Module: m, Kind: kind})
	}
	gone := want[2]
	gone.Module.Version = "v1.99.0"
	dir := t.TempDir()
	r, err := one.Node().Export(context.Background(), node.Export{Dir: dir, Only: true, Want: append(want, gone)}, nil)
	if err != nil || r.Refusals != 1 || r.Refused[0].File != gone.String() || !strings.Contains(r.Refused[0].Reason, "not found") {
		t.Fatalf("%+v, %v; want %s alone refused, because it is not found", r, err, gone)
	}
	for _, n := range want {
		path, err := testnet.FilePath(m, string(n.Kind))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(path))); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
}
