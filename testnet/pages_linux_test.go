package testnet

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/dashboard"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// fewReleases are held by the office that pages are compared to.
const fewReleases = 1000

// manyReleases is how many the other one holds: 100000 take a minute or two to make.
//
//	MESHPROXY_RELEASES=100000 go test -run '^$' -bench Dashboard ./testnet
func manyReleases(b *testing.B) int {
	text := os.Getenv("MESHPROXY_RELEASES")
	if text == "" {
		return 5 * fewReleases
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// heldModule names the i-th of n releases: a tenth of them are versions of one
// module, the others of modules with five versions each.
func heldModule(i, n int) module.Version {
	if i < n/10 {
		return module.Version{Path: "example.test/big", Version: fmt.Sprintf("v1.%d.0", i)}
	}
	return module.Version{Path: fmt.Sprintf("example.test/team%d/lib%d", i/5%97, i/5), Version: fmt.Sprintf("v1.%d.0", i%5)}
}

// fillReleases commits n releases, each an .info and a go.mod, to an office that does not run.
func fillReleases(b *testing.B, dir, meshID string, n int) {
	b.Helper()
	key, err := mesh.LoadOrCreateKey(dir)
	if err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var g errgroup.Group
	g.SetLimit(512) // commits at the same time share a sync
	for i := range n {
		g.Go(func() error {
			m := heldModule(i, n)
			for kind, text := range map[verify.Kind]string{
				verify.Info: fmt.Sprintf(`{"Version":%q,"Time":"2026-01-02T03:04:05Z"}`, m.Version),
				verify.Mod:  "module " + m.Path + "\n",
			} {
				data := []byte(text)
				rec := verify.Record{Mesh: meshID, Name: verify.Name{Module: m, Kind: kind}, Size: int64(len(data)), Data: data, Digest: verify.DigestOf(data),
					Fetched: time.Now().UTC().Truncate(time.Second), Office: "many", Source: "proxy upstream", Vouch: verify.Vouch{By: verify.ByMember}}
				if kind == verify.Mod {
					rec.Digest = verify.DigestMod(data)
				}
				signed, err := verify.Seal(&rec, key)
				if err == nil {
					err = s.Commit(context.Background(), signed, nil)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// processor is the time that this thread has used.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDashboard compares pages of an office that holds much with those of one
// that holds little: processor time and size must not grow with what is held.
func BenchmarkDashboard(b *testing.B) {
	for _, n := range []int{fewReleases, manyReleases(b)} {
		w := New(b)
		o := w.Found("office"+strconv.Itoa(n), node.Config{})
		st := o.Status()
		o.Stop()
		fillReleases(b, st.Data, st.Mesh, n)
		o.Restart()
		if held := o.Status().Store.Releases; held != n {
			b.Fatalf("%d releases are held, want %d", held, n)
		}
		middle := heldModule(n/2, n)
		for _, page := range []struct{ name, query string }{
			{"overview", ""},
			{"first page", "modules"},
			{"a page in the middle", "modules?from=" + middle.String()},
			{"search", "modules?q=example.test/team5/"},
			{"search for nothing", "modules?q=nothing.test/"},
			{"versions of a large module", "modules?q=example.test/big@"},
			{"a version of a large module", "modules?q=example.test/big@v1.7"},
			{"part of a name", "modules?q=lib" + strconv.Itoa(n/5-1)},
			{"part of no name", "modules?q=quux"},
			{"module", "module?m=" + middle.String()},
			{"alarms", "alarms"},
		} {
			b.Run(fmt.Sprintf("%s/%d", page.name, n), func(b *testing.B) { benchPage(b, o.Node(), page.query) })
		}
		b.Run(fmt.Sprintf("a look a second/%d", n), func(b *testing.B) { benchLook(b, o.Node()) })
		b.Run(fmt.Sprintf("metrics/%d", n), func(b *testing.B) {
			for b.Loop() {
				o.MustGet("/metrics")
			}
		})
	}
}

func benchPage(b *testing.B, n *node.Node, query string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pages := dashboard.New(n, dashboard.Options{})
	size, before := 0, processor(b)
	for b.Loop() {
		w := httptest.NewRecorder()
		pages.ServeHTTP(w, httptest.NewRequest(http.MethodGet, dashboard.Path+query, nil))
		if w.Code != http.StatusOK {
			b.Fatalf("status %d: %s", w.Code, w.Body)
		}
		size = w.Body.Len()
	}
	b.ReportMetric(float64(processor(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
	b.ReportMetric(float64(size)/1024, "KiB")
}

// benchLook asks what the overview is made of, which it does once a second.
func benchLook(b *testing.B, n *node.Node) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := processor(b)
	for b.Loop() {
		ctx := b.Context()
		if _, err := n.Status(ctx); err != nil {
			b.Fatal(err)
		}
		if _, err := n.Peers(ctx); err != nil {
			b.Fatal(err)
		}
		if _, err := n.Health(ctx); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processor(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
}
