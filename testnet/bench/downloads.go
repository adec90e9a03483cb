package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// way is a way to download the project, with what each round took.
type way struct {
	name   string
	took   []time.Duration
	cpu    []time.Duration      // of the office
	counts map[outside.Kind]int // upstream requests of the last round
	disk   int64                // bytes on disk of the office afterwards
	peak   int64                // bytes of memory, mapped files included
	own    int64                // bytes of memory, mapped files left out
}

// downloads measures every way to download the project, and returns an office that
// has it all.
func (b *bench) downloads(ctx context.Context, zips int64) (*process.Office, error) {
	direct := &way{name: "direct from the upstream"}
	tree := &way{name: "from files (GOPROXY=file://)"}
	cold := &way{name: "cold through an office"}
	warm := &way{name: "warm through it"}
	second := &way{name: "through a second office, no upstream"}
	again := &way{name: "warm through the second"}
	var keep *process.Office
	// Once for nothing: files come into memory, and the database learns of all that
	// it will be asked for, so that its tree stays as it is.
	if err := b.client(ctx, &way{name: "once for nothing"}, b.upstream.URL()); err != nil {
		return nil, err
	}
	if b.Only == OnlyLoads {
		return b.filled(ctx)
	}
	for round := range b.Rounds {
		if keep != nil {
			keep.Kill()
		}
		if err := b.client(ctx, direct, b.upstream.URL()); err != nil {
			return nil, err
		}
		if err := b.client(ctx, tree, "file://"+string(b.tree)); err != nil {
			return nil, err
		}
		a, err := b.binary.Start(ctx, filepath.Join(b.work, fmt.Sprintf("a%d", round)),
			process.Options{Upstream: b.upstream.URL(), SumDB: b.sumdb})
		if err != nil {
			return nil, err
		}
		keep = a
		if err := b.profiled(ctx, offices{"cold": a}, func() error { return b.through(ctx, cold, a) }); err != nil {
			return nil, err
		}
		if err := b.through(ctx, warm, a); err != nil {
			return nil, err
		}
		if err := b.second(ctx, a, round, second, again); err != nil {
			a.Kill()
			return nil, err
		}
	}
	b.out.ways([]*way{direct, cold, warm, second, again, tree}, zips)
	return keep, nil
}

// filled returns an office that was asked for the project once.
func (b *bench) filled(ctx context.Context) (*process.Office, error) {
	o, err := b.binary.Start(ctx, filepath.Join(b.work, "filled"), process.Options{Upstream: b.upstream.URL(), SumDB: b.sumdb})
	if err != nil {
		return nil, err
	}
	if err := b.client(ctx, &way{name: "fill"}, o.URL()); err != nil {
		o.Kill()
		return nil, err
	}
	return o, nil
}

// second measures an office that joins a, has no upstream, and ends.
func (b *bench) second(ctx context.Context, a *process.Office, round int, ways ...*way) error {
	token, err := a.Invite(ctx)
	if err != nil {
		return err
	}
	o, err := b.binary.Start(ctx, filepath.Join(b.work, fmt.Sprintf("b%d", round)),
		process.Options{Token: token, Upstream: "off", SumDB: b.sumdb})
	if err != nil {
		return err
	}
	defer o.Kill()
	for i, w := range ways {
		through := func() error { return b.through(ctx, w, o) }
		if i == 0 {
			err = b.profiled(ctx, offices{"first": a, "second": o}, through)
		} else {
			err = through()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) through(ctx context.Context, w *way, o *process.Office) error {
	before := o.CPUTime()
	own := watchMemory(o)
	err := b.client(ctx, w, o.URL())
	w.own = max(w.own, own())
	if err != nil {
		return fmt.Errorf("%w\n%s", err, o.Log())
	}
	w.cpu = append(w.cpu, o.CPUTime()-before)
	w.peak = max(w.peak, o.PeakMemory())
	w.disk, err = diskUsage(o.Data())
	return err
}

// watchMemory looks again and again at what memory an office holds, until the
// returned func is called, which says the most of it in bytes.
func watchMemory(o *process.Office) (most func() int64) {
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		var most int64
		for {
			most = max(most, o.OwnMemory())
			select {
			case <-tick.C:
			case <-stop:
				peak <- most
				return
			}
		}
	}()
	return func() int64 { close(stop); return <-peak }
}

// client downloads the project once, with an empty module cache, a checksum
// database and no go.sum.
func (b *bench) client(ctx context.Context, w *way, goproxy string) error {
	if strings.HasPrefix(goproxy, "file:") {
		return b.clientOf(ctx, w, goproxy, b.sumsAt())
	}
	return b.clientOf(ctx, w, goproxy, b.sumdb)
}

// clientOf is client with a GOSUMDB of its own.
func (b *bench) clientOf(ctx context.Context, w *way, goproxy, sumdb string) error {
	dir, err := os.MkdirTemp(b.memory, "client-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	g, err := outside.NewGo(dir, "GOPROXY="+goproxy, "GOSUMDB="+sumdb)
	if err != nil {
		return err
	}
	if err := g.Write("go.mod", b.gomod); err != nil {
		return err
	}
	b.upstream.Reset()
	start := time.Now()
	if _, err := g.Run(ctx, "mod", "download"); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	w.took = append(w.took, time.Since(start))
	w.counts = b.upstream.Counts()
	return nil
}

func (r *report) ways(ways []*way, zips int64) {
	kinds := []outside.Kind{outside.Info, outside.Mod, outside.Zip, outside.Supported, outside.TreeHead, outside.Lookup, outside.Tile}
	header := table.Row{"go mod download", "seconds", "× direct", "office CPU s", "disk × zips", "memory MB", "with mapped files MB"}
	for _, k := range kinds {
		header = append(header, "upstream "+string(k))
	}
	var rows []table.Row
	for _, w := range ways {
		row := table.Row{w.name, fmt.Sprintf("%.2f", median(w.took)/1e9), fmt.Sprintf("%.2f", median(ratios(w.took, ways[0].took))), "", "", "", ""}
		if w.disk > 0 {
			row[3], row[4] = fmt.Sprintf("%.2f", median(w.cpu)/1e9), fmt.Sprintf("%.2f", float64(w.disk)/float64(zips))
			row[5], row[6] = fmt.Sprintf("%.0f", float64(w.own)/1e6), fmt.Sprintf("%.0f", float64(w.peak)/1e6)
		}
		for _, k := range kinds {
			row = append(row, w.counts[k])
		}
		rows = append(rows, row)
	}
	r.table(header, rows)
}

// ratios divides the measurements of a way by those of another in the same round.
func ratios[T ~int64 | ~float64](a, b []T) []float64 {
	var r []float64
	for i := range a {
		r = append(r, float64(a[i])/float64(b[i]))
	}
	return r
}

func median[T ~int64 | ~float64](values []T) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return float64(sorted[n/2])
	}
	return (float64(sorted[n/2-1]) + float64(sorted[n/2])) / 2
}

// diskUsage is what the files below dir take, in bytes: blocks that are allocated,
// since Badger makes files that are larger than what they hold.
func diskUsage(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if os.IsNotExist(err) {
			return nil // removed by the office meanwhile
		} else if err != nil {
			return err
		}
		if !e.IsDir() {
			sum += allocated(info)
		}
		return nil
	})
	return sum, err
}
