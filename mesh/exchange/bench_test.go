//go:build unix

package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// incompressible makes files like those of a real module in number and size: of
// 64 MiB as many small ones as large ones by bytes.
func incompressible() map[string][]byte {
	rnd := mrand.NewChaCha8([32]byte{1})
	files := map[string][]byte{}
	for i := range 4096 {
		b := make([]byte, 8<<10)
		rnd.Read(b)
		files[fmt.Sprintf("small/dir%d/file%d.go", i%64, i)] = b
	}
	for i := range 4 {
		b := make([]byte, 8<<20)
		rnd.Read(b)
		files[fmt.Sprintf("testdata/large%d", i)] = b
	}
	return files
}

// cpuTime is the processor time that this process has used. Benchmarks report it
// beside the rate: it does not depend on what else the machine does.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reportCPU reports seconds of processor time, of both ends, for each GB moved.
func reportCPU(b *testing.B, used time.Duration, bytes int64) {
	b.ReportMetric(used.Seconds()/(float64(bytes)*float64(b.N)/1e9), "cpu-s/GB")
}

// BenchmarkBareStream is what BenchmarkPull is held against: the same bytes over
// one stream of the same transport, thrown away on arrival.
func BenchmarkBareStream(b *testing.B) {
	w := newWorld(b, 2)
	const size = 64 << 20
	serveBare(w.offices[0], size)
	b.SetBytes(size)
	start := cpuTime(b)
	defer func() { reportCPU(b, cpuTime(b)-start, size) }()
	for b.Loop() {
		pullBare(b, w.offices[1], w.offices[0], size)
	}
}

// serveBare answers with size bytes, and nothing else.
func serveBare(o *office, size int64) {
	block := make([]byte, 64<<10)
	o.host.SetStreamHandler("/bare", func(s network.Stream) {
		for range size / int64(len(block)) {
			if _, err := s.Write(block); err != nil {
				return
			}
		}
		s.Close()
	})
}

func pullBare(b *testing.B, to, from *office, size int64) {
	s, err := to.host.NewStream(b.Context(), from.id(), "/bare")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Write(nil); err != nil {
		b.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, s); err != nil || n != size {
		b.Fatal(n, err)
	}
	s.Close()
}

// BenchmarkLargeZip pulls one zip of 128 MiB in large files into the asker's Badger,
// and in turn with that moves as many bytes over a bare stream between the same
// hosts, over loopback and over a line of 1 Gbit/s. It reports the share of the bare
// stream's rate, and of the processor time, for each GB, what the bare stream takes,
// what it takes to read the files from the holder's store and throw them away, and to
// verify and keep them from memory: no transfer can take less than these together.
func BenchmarkLargeZip(b *testing.B) {
	files := map[string][]byte{}
	all := noise(8 * 16 << 20)
	for i := range 8 {
		files[fmt.Sprintf("testdata/large%d", i)] = all[i*16<<20:][:16<<20]
	}
	r := newRelease(b, "example.test/m", "v1.0.0", files)
	for _, line := range []float64{0, 125e6} {
		b.Run(fmt.Sprintf("line=%.0fMbit", line*8/1e6), func(b *testing.B) { largeZip(b, r, line) })
	}
}

func largeZip(b *testing.B, r *release, line float64) {
	w := newWorld(b, 1)
	holder := w.offices[0]
	holder.admit(r)
	serveBare(holder, r.size)
	b.SetBytes(r.size)
	var bare, pull, bareCPU, pullCPU, readCPU, putCPU time.Duration
	timed := func(wall, cpu *time.Duration, f func()) {
		start, used := time.Now(), cpuTime(b)
		f()
		*wall, *cpu = *wall+time.Since(start), *cpu+cpuTime(b)-used
	}
	var ignored time.Duration
	for b.Loop() {
		b.StopTimer()
		asker, alone := w.join("asker", func(*Config) {}), w.join("alone", func(*Config) {})
		if line > 0 {
			dialOver(b, asker, holder, 100*time.Microsecond, line)
		} else {
			w.connect()
		}
		timed(&bare, &bareCPU, func() { pullBare(b, asker, holder, r.size) })
		b.StartTimer()
		timed(&pull, &pullCPU, func() {
			if _, err := asker.fetch(b.Context(), r, holder.id()); err != nil {
				b.Fatal(err)
			}
		})
		b.StopTimer()
		timed(&ignored, &readCPU, func() {
			eachRaw(b, holder, r, func(_ modzip.Raw, body io.Reader) error { _, err := io.Copy(io.Discard, body); return err })
		})
		streams := map[modzip.Raw][]byte{}
		eachRaw(b, holder, r, func(f modzip.Raw, body io.Reader) (err error) { streams[f], err = io.ReadAll(body); return err })
		timed(&ignored, &putCPU, func() { putAll(b, alone, r, holder, streams) })
		asker.stop()
		alone.stop()
		w.offices = w.offices[:1]
		b.StartTimer()
	}
	b.ReportMetric(bare.Seconds()/pull.Seconds(), "of-bare-rate")
	perGB := func(cpu time.Duration) float64 { return cpu.Seconds() / (float64(r.size) * float64(b.N) / 1e9) }
	for name, cpu := range map[string]time.Duration{"bare": bareCPU, "read": readCPU, "put": putCPU, "pull": pullCPU} {
		b.ReportMetric(perGB(cpu), name+"-cpu-s/GB")
	}
	b.ReportMetric(float64(bareCPU+readCPU+putCPU)/float64(pullCPU), "floor/pull")
}

// eachRaw opens each file of a release that o holds.
func eachRaw(b *testing.B, o *office, r *release, use func(modzip.Raw, io.Reader) error) {
	text, err := o.store.Listing(r.root)
	if err != nil {
		b.Fatal(err)
	}
	listing, err := verify.ParseListing(text)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range listing.Files {
		raw, body, err := o.store.OpenRaw(f.Sum)
		if err == nil {
			err = errors.Join(use(raw, body), body.Close())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// putAll lets o's store verify and keep the streams of a release, two at a time.
func putAll(b *testing.B, o *office, r *release, from *office, streams map[modzip.Raw][]byte) {
	text, err := from.store.Listing(r.root)
	if err != nil {
		b.Fatal(err)
	}
	staged, err := o.store.StageListing(b.Context(), r.module, r.root, text)
	if err != nil {
		b.Fatal(err)
	}
	defer staged.Close()
	g, ctx := errgroup.WithContext(b.Context())
	g.SetLimit(2)
	for raw, data := range streams {
		g.Go(func() error { return o.store.PutRaw(ctx, raw, bytes.NewReader(data)) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := o.store.Commit(b.Context(), o.sign(r.name(verify.Zip), r.root, nil, r.size), staged); err != nil {
		b.Fatal(err)
	}
}

// discard verifies files and keeps none.
type discard struct{ backend }

func (d discard) PutRaw(ctx context.Context, f modzip.Raw, r io.Reader) error {
	return f.Verify(ctx, r)
}

func (d discard) PutContents(_ context.Context, contents []modzip.Content) error {
	for _, c := range contents {
		if verify.DigestOf(c.Data) != c.Sum {
			return modzip.ErrBadFile
		}
	}
	return nil
}

// BenchmarkPull moves 64 MiB in 4100 files, from the holder's Badger: to a sink
// that verifies and throws away, and into the asker's Badger.
func BenchmarkPull(b *testing.B) {
	r := newRelease(b, "example.test/m", "v1.0.0", incompressible())
	for _, to := range []string{"verify", "store"} {
		for _, holders := range []int{1, 3} {
			b.Run(fmt.Sprintf("to=%s/holders=%d", to, holders), func(b *testing.B) {
				w := newWorld(b, holders)
				var ids []peer.ID
				for _, o := range w.offices {
					o.admit(r)
					ids = append(ids, o.id())
				}
				b.SetBytes(r.size)
				var used time.Duration
				defer func() { reportCPU(b, used, r.size) }()
				for b.Loop() {
					b.StopTimer()
					asker := w.join("asker", func(c *Config) {
						if to == "verify" {
							c.Backend = discard{c.Backend.(backend)}
						}
					})
					w.connect()
					used -= cpuTime(b)
					b.StartTimer()
					if to == "store" {
						if _, err := asker.fetch(b.Context(), r, ids...); err != nil {
							b.Fatal(err)
						}
					} else if _, err := asker.x.Pull(b.Context(), PullRequest{
						Module: r.module, Root: r.root, Holders: ids, Size: r.size,
						Stage: func(_ context.Context, text []byte) ([]verify.File, error) {
							l, err := verify.ParseListing(text)
							return l.Files, err
						},
					}); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					used += cpuTime(b)
					asker.stop()
					w.offices = w.offices[:holders]
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkRecords asks about 200 go.mod files at once, and about one.
func BenchmarkRecords(b *testing.B) {
	for _, n := range []int{10, 50} {
		w := newWorld(b, n)
		var names []verify.Name
		for i := range 200 {
			m := module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}
			name := verify.Name{Module: m, Kind: verify.Mod}
			names = append(names, name)
			s := w.home(homeKey(name), 0).admitMod(m, "module "+m.Path+"\n\n// "+string(make([]byte, 1000))+"\n")
			for k := range 3 {
				if err := w.home(homeKey(name), k).store.Commit(b.Context(), s, nil); err != nil {
					b.Fatal(err)
				}
			}
		}
		asker := w.join("asker", func(*Config) {})
		w.connect()
		for _, batch := range []int{1, 200} {
			b.Run(fmt.Sprintf("members=%d/names=%d", n, batch), func(b *testing.B) {
				for b.Loop() {
					reply, err := asker.x.Records(b.Context(), names[:batch], RecordsOptions{})
					if err != nil {
						b.Fatal(err)
					}
					for _, f := range reply.Found {
						if len(f.Records) == 0 {
							b.Fatalf("%v not found", f.Name)
						}
					}
				}
			})
		}
	}
}

// BenchmarkClaim claims new names from members in turn, one after the other, and
// reports the latencies.
func BenchmarkClaim(b *testing.B) {
	for _, n := range []int{10, 50} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			w := newWorld(b, n)
			var took []time.Duration
			i := 0
			for b.Loop() {
				name := verify.Name{Module: module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}, Kind: verify.Mod}
				start := time.Now()
				c, err := w.offices[i%n].x.Claim(b.Context(), name)
				if err != nil || c.Outcome != Fetch {
					b.Fatal(c, err)
				}
				took = append(took, time.Since(start))
				c.Lease.Close()
				i++
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
