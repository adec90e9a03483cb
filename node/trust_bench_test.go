//go:build unix

package node_test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// BenchmarkTrust fetches a cold project of 200 modules, .mod and .zip of each, with
// and without a checksum database, from the upstream and from another office. The
// difference is what checking costs; requests to the database are counted.
func BenchmarkTrust(b *testing.B) {
	const modules, clients = 200, 16
	for _, c := range []struct{ name, database string }{{"checked", "on"}, {"unchecked", "off"}} {
		for _, from := range []string{"upstream", "office"} {
			b.Run(from+"/"+c.name, func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					w, err := outside.Generate(1, modules)
					if err != nil {
						b.Fatal(err)
					}
					db, err := w.Database("sums.test")
					if err != nil {
						b.Fatal(err)
					}
					if err := db.Fill(b.Context(), 10_000); err != nil {
						b.Fatal(err)
					}
					up, err := outside.NewServer(outside.Proxy(w, db))
					if err != nil {
						b.Fatal(err)
					}
					paths := newest(b, w)
					net := testnet.New(b)
					cfg := node.Config{Upstream: up.URL(), SumDB: db.Key()}
					if c.database == "off" {
						cfg.SumDB = "off"
					}
					office := net.Found("one", cfg)
					for _, p := range paths { // zips are packed, records are made, outside of the measurement
						if from == "office" {
							office.MustGet(p)
						}
					}
					if from == "office" {
						cfg.Upstream = "off"
						office = net.Join("two", office, cfg)
						net.Settle()
						up.Stop()
					}
					b.StartTimer()
					before := cpu(b)
					again := getAll(b, office, paths, clients)
					b.ReportMetric(float64(cpu(b)-before)/float64(len(paths))/1e6, "cpu-ms/file")
					b.StopTimer()
					b.ReportMetric(float64(again), "retries")
					b.ReportMetric(float64(len(paths)), "files")
					b.ReportMetric(float64(up.Counts()[outside.Lookup]), "lookups")
					b.ReportMetric(float64(up.Counts()[outside.Tile]), "tiles")
					for _, o := range net.Offices() {
						o.Stop()
					}
					up.Stop()
					b.StartTimer()
				}
			})
		}
	}
}

// cpu is the processor time of this process so far, of all offices and the upstream.
// Unlike a clock's, it says something on a machine that others use, too.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newest lists .mod and .zip of one version of each module. Their zips are packed.
func newest(b *testing.B, w *outside.World) []string {
	var paths []string
	seen := map[string]bool{}
	for _, r := range w.Releases() {
		if seen[r.Path] {
			continue
		}
		seen[r.Path] = true
		for _, kind := range []string{"mod", "zip"} {
			p, err := testnet.FilePath(r.Version, kind)
			if err != nil {
				b.Fatal(err)
			}
			paths = append(paths, p)
		}
		if _, err := r.H1(); err != nil {
			b.Fatal(err)
		}
	}
	return paths
}

// getAll gets every path, and asks again where a machine under load was too slow for
// the offices to hear each other. It returns how often it did.
func getAll(b *testing.B, o *testnet.Office, paths []string, clients int) (again int64) {
	work := make(chan string)
	var retries atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for p := range work {
				fetchFile(b, o, p, &retries)
			}
		})
	}
	for _, p := range paths {
		work <- p
	}
	close(work)
	wg.Wait()
	return retries.Load()
}

func fetchFile(b *testing.B, o *testnet.Office, path string, retries *atomic.Int64) {
	const attempts = 10
	for range attempts {
		status, body, err := o.Get(path)
		switch {
		case err == nil && status == http.StatusOK:
			return
		case err != nil || status != http.StatusServiceUnavailable:
			b.Errorf("%s: %d, %v: %.300s", path, status, err, body)
			return
		}
		retries.Add(1)
		time.Sleep(3 * time.Second) // a failure is remembered for less
	}
	b.Errorf("%s: unavailable %d times", path, attempts)
}
