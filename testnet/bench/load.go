package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/testnet/process"
)

// load is a measurement of requests for one kind of file, at an office and at a
// plain file server on the same files.
type load struct {
	kind, suffix string
	requests     int
	office, file rates
}

// rates are what the rounds of a load came to.
type rates struct {
	perSecond []float64 // requests, or MB for zips
	processor []float64 // of the server, for one of perSecond: microseconds
}

// loads measures warm answers against http.FileServer, taking turns.
func (b *bench) loads(ctx context.Context, o *process.Office) error {
	plain, err := b.startFileServer(ctx)
	if err != nil {
		return err
	}
	defer plain.stop()
	zips, size, err := b.tree.Paths(".zip")
	if err != nil {
		return err
	}
	// Each zip some times, so that a gigabyte or so is moved, unless they are tiny.
	times := max(1, min(int(1e9/size), b.Requests/len(zips)))
	all := []*load{
		{kind: ".info, requests/s", suffix: ".info", requests: b.Requests},
		{kind: ".mod, requests/s", suffix: ".mod", requests: b.Requests},
		{kind: "list, requests/s", suffix: "/@v/list", requests: b.Requests},
		{kind: ".zip, MB/s", suffix: ".zip", requests: times * len(zips)},
	}
	for _, l := range all {
		paths, _, err := b.tree.Paths(l.suffix)
		if err != nil {
			return err
		}
		// Some times for nothing: what is asked for the first time is not warm.
		if _, err := b.measure(ctx, o.URL(), paths, &load{suffix: l.suffix, requests: 3 * len(paths)}); err != nil {
			return fmt.Errorf("%s: %w", l.kind, err)
		}
		for range b.Rounds {
			for _, server := range []struct {
				url  string
				pid  int
				into *rates
			}{{o.URL(), o.PID(), &l.office}, {plain.url, plain.pid, &l.file}} {
				before := process.CPUTime(server.pid)
				rate, err := b.measure(ctx, server.url, paths, l)
				if err != nil {
					return fmt.Errorf("%s: %w", l.kind, err)
				}
				server.into.perSecond = append(server.into.perSecond, rate.perSecond)
				cpu := float64(process.CPUTime(server.pid)-before) / float64(time.Microsecond)
				server.into.processor = append(server.into.processor, cpu/rate.amount)
			}
		}
	}
	b.out.loads(all, o)
	return nil
}

// measured is what one round of a load did, in requests, or in MB for zips.
type measured struct{ amount, perSecond float64 }

// measure sends l.requests requests over b.Clients connections.
func (b *bench) measure(ctx context.Context, base string, paths []string, l *load) (measured, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: b.Clients, MaxConnsPerHost: b.Clients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var next, bytes atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for range b.Clients {
		g.Go(func() error {
			buf := make([]byte, 64<<10)
			for {
				i := int(next.Add(1)) - 1
				if i >= l.requests {
					return nil
				}
				n, err := fetch(ctx, client, base+paths[i%len(paths)], buf)
				if err != nil {
					return err
				}
				bytes.Add(n)
			}
		})
	}
	if err := g.Wait(); err != nil {
		return measured{}, err
	}
	seconds, amount := time.Since(start).Seconds(), float64(l.requests)
	if l.suffix == ".zip" {
		amount = float64(bytes.Load()) / 1e6
	}
	return measured{amount, amount / seconds}, nil
}

func fetch(ctx context.Context, client *http.Client, url string, buf []byte) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
}

// server is a file server in a process of its own.
type server struct {
	url  string
	pid  int
	stop func()
}

// startFileServer runs a plain file server on the tree, a process of its own as the
// office is one.
func (b *bench) startFileServer(ctx context.Context) (*server, error) {
	cmd := exec.CommandContext(ctx, b.Self[0], append(slices.Clone(b.Self[1:]), string(b.tree))...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		in.Close() // the end of its input ends it
		cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return nil, fmt.Errorf("file server: %w", err)
	}
	return &server{strings.TrimSpace(line), cmd.Process.Pid, stop}, nil
}

func (r *report) loads(all []*load, o *process.Office) {
	header := table.Row{"warm", "office", "http.FileServer", "office ÷ file server", "office's processor, µs each (zips: a MB)", "file server's", "office's ÷ file server's"}
	var rows []table.Row
	for _, l := range all {
		rows = append(rows, table.Row{l.kind,
			fmt.Sprintf("%.0f", median(l.office.perSecond)), fmt.Sprintf("%.0f", median(l.file.perSecond)),
			fmt.Sprintf("%.2f", median(ratios(l.office.perSecond, l.file.perSecond))),
			fmt.Sprintf("%.1f", median(l.office.processor)), fmt.Sprintf("%.1f", median(l.file.processor)),
			fmt.Sprintf("%.2f", median(ratios(l.office.processor, l.file.processor))),
		})
	}
	r.table(header, rows)
	r.say("Peak memory of the office over all of it, mapped files included: %.0f MB.", float64(o.PeakMemory())/1e6)
}
