// Command demo shows on one machine what meshproxy is for: office A downloads the
// modules of a real project, this one, from its upstream; office B, which has no
// upstream, joins with a token of A's and gives the same project to a client with
// an empty module cache; A is killed, and B serves it again. It prints what came
// from where, leaves nothing behind, and exits with 1 when anything is not so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

func main() {
	bin := flag.String("bin", "bin/meshproxy", "the meshproxy `binary`")
	upstream := flag.String("upstream", "", "the upstream of office A; empty is the binary's default")
	sumdb := flag.String("sumdb", "", "the checksum database of both offices; empty is the binary's default")
	project := flag.String("project", ".", "the `directory` whose go.mod is the project to download")
	timeout := flag.Duration("timeout", 10*time.Minute, "the most that the demo may take")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	d := &demo{upstream: *upstream, sumdb: *sumdb, project: *project}
	if err := d.run(ctx, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is one run. Steps are in the order in which they happen.
type demo struct {
	upstream, sumdb, project string

	bin   process.Binary
	dir   string // everything is below it
	steps []step
}

// step is a finished download, for the table at the end.
type step struct {
	what    string
	modules int
	took    time.Duration
	served  map[string]node.Served // by source, since the step before at the same office
}

func (d *demo) run(ctx context.Context, bin string) (err error) {
	abs, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	d.bin = process.Binary(abs)
	if d.dir, err = os.MkdirTemp("", "meshproxy-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()

	a, err := d.start(ctx, "A", process.Options{Upstream: d.upstream, SumDB: d.sumdb, Flags: []string{"--office", "A"}})
	if err != nil {
		return err
	}
	defer a.Kill()
	say("Office A serves at %s, process %d.", a.URL(), a.PID())
	first, err := d.download(ctx, a, "through A, from its upstream")
	if err != nil {
		return err
	}

	token, err := a.Invite(ctx, "--office", "B")
	if err != nil {
		return err
	}
	b, err := d.start(ctx, "B", process.Options{Token: token, Upstream: "off", SumDB: d.sumdb})
	if err != nil {
		return err
	}
	defer b.Kill()
	say("Office B joined with A's token and has no upstream: %s, process %d.", b.URL(), b.PID())
	second, err := d.download(ctx, b, "through B, which has no upstream")
	if err != nil {
		return err
	}

	a.Kill()
	say("Office A was killed.")
	third, err := d.download(ctx, b, "through B again, A being dead")
	if err != nil {
		return err
	}
	d.report()
	return compare(first, second, third)
}

func (d *demo) start(ctx context.Context, name string, o process.Options) (*process.Office, error) {
	return d.bin.Start(ctx, filepath.Join(d.dir, name), o)
}

// download gives the project to a go command whose module cache is empty, with
// the checksum database on, and returns the hash of each zip.
func (d *demo) download(ctx context.Context, o *process.Office, what string) (zips string, err error) {
	before, err := o.Status(ctx)
	if err != nil {
		return "", err
	}
	g, err := d.client(o)
	if err != nil {
		return "", err
	}
	start := time.Now()
	// There is no go.sum, so the checksum database is asked for each hash.
	if _, err := g.Run(ctx, "mod", "download"); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", what, err, o.Log())
	}
	took := time.Since(start)
	sum, modules, err := hashes(g)
	if err != nil {
		return "", err
	}
	after, err := o.Status(ctx)
	if err != nil {
		return "", err
	}
	d.steps = append(d.steps, step{what, modules, took, since(before, after)})
	say("  %d modules %s, in %v.", modules, what, took.Round(time.Millisecond))
	return sum, os.RemoveAll(filepath.Dir(g.Dir()))
}

// client makes a go command that knows nothing but the office and the project.
func (d *demo) client(o *process.Office) (*outside.Go, error) {
	dir, err := os.MkdirTemp(d.dir, "client-")
	if err != nil {
		return nil, err
	}
	g, err := outside.NewGo(dir, "GOPROXY="+o.URL())
	if err != nil {
		return nil, err
	}
	sumdb := d.sumdb
	if sumdb == "" {
		out, err := exec.Command("go", "env", "GOSUMDB").Output()
		if err != nil {
			return nil, fmt.Errorf("go env GOSUMDB: %w", err)
		}
		sumdb = strings.TrimSpace(string(out))
	}
	g.Set("GOSUMDB=" + sumdb)
	mod, err := os.ReadFile(filepath.Join(d.project, "go.mod"))
	if err != nil {
		return nil, err
	}
	return g, g.Write("go.mod", string(mod))
}

// hashes reads from the module cache the hash of every zip that was downloaded,
// one line a module, and how many there are.
func hashes(g *outside.Go) (list string, n int, err error) {
	cache := filepath.Join(g.ModCache(), "cache", "download")
	var b strings.Builder
	err = filepath.WalkDir(cache, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".ziphash") {
			return err
		}
		hash, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		fmt.Fprintf(&b, "%s %s\n", strings.TrimPrefix(path, cache), hash)
		return nil
	})
	return b.String(), n, err
}

// since is what an office served between two looks at it.
func since(before, after *node.Status) map[string]node.Served {
	served := map[string]node.Served{}
	for _, s := range after.Served {
		served[s.Source] = s
	}
	for _, s := range before.Served {
		now := served[s.Source]
		now.Answers -= s.Answers
		now.Bytes -= s.Bytes
		served[s.Source] = now
	}
	for source, s := range served {
		if s.Answers == 0 {
			delete(served, source)
		}
	}
	return served
}

func (d *demo) report() {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.SetOutputMirror(os.Stdout)
	t.AppendHeader(table.Row{"go mod download", "modules", "seconds", "came from", "answers", "MB"})
	for _, s := range d.steps {
		row := table.Row{s.what, s.modules, fmt.Sprintf("%.2f", s.took.Seconds())}
		for _, source := range slices.Sorted(maps.Keys(s.served)) {
			from := s.served[source]
			t.AppendRow(append(row, source, from.Answers, fmt.Sprintf("%.1f", float64(from.Bytes)/1e6)))
			row = table.Row{"", "", ""}
		}
		t.AppendSeparator()
	}
	t.Render()
}

// compare checks that all three downloads gave the same, and not nothing.
func compare(first string, others ...string) error {
	if n := strings.Count(first, "\n"); n <= 100 {
		return fmt.Errorf("the project has %d modules: too few to show anything", n)
	}
	for i, other := range others {
		if other != first {
			return fmt.Errorf("download %d differs from the first", i+2)
		}
	}
	say("All three downloads are the same, hash by hash.")
	return nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
