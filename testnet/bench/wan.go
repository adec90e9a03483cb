package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// leg is one download across the emulated network, with what each round of it
// came to.
type leg struct {
	name   string
	took   []time.Duration
	wire   []float64 // bytes towards the client's site, headers and all
	lacked []float64 // bytes by which the office's store grew: compressed files and records
	ideal  []time.Duration
	zips   amount             // that the office lacked, as they are; 0 is not known
	cpu    [2][]time.Duration // of processors, for the office and for the first one
}

// across measures a second office, without an upstream, that is a wide area network
// away from the first: the wire against the bytes that it lacked, and the time
// against what the line and the machine need at least.
func (b *bench) across(ctx context.Context) error {
	tree, err := outside.FillTree(ctx, b.treeDir()+"-wan", b.gomod, machineSettings()...)
	if err != nil {
		return err
	}
	after, err := b.upgraded(ctx)
	if err != nil {
		return err
	}
	had, err := b.zips(ctx, b.gomod)
	if err != nil {
		return err
	}
	has, err := b.zips(ctx, after)
	if err != nil {
		return err
	}
	db, err := tree.Database(sumsName)
	if err == nil {
		err = db.Fill(ctx, 5000)
	}
	if err != nil {
		return err
	}
	run := &crossing{
		bench: b, tree: tree, db: db, after: after,
		direct: &leg{name: "direct from the upstream, as far away"},
		cold:   &leg{name: "through a second office"},
		warm:   &leg{name: "the project again"},
		change: &leg{name: fmt.Sprintf("after upgrades of %d modules by one version", upgrades)},
	}
	run.typical = nearestTo(typicalZip, had)
	run.cold.zips, run.change.zips = fresh(had, map[string]int64{run.typical: 0}), fresh(has, had)
	for range b.Rounds {
		if err := run.round(ctx); errors.Is(err, wan.ErrUnavailable) {
			b.out.say("Nothing measured across a network: %v", err)
			return nil
		} else if err != nil {
			return err
		}
	}
	run.report(b.out)
	return nil
}

// officeAddr is where each office listens, each on a loopback of its own.
const officeAddr = "127.0.0.1:3000"

// crossing is the measurements across a network.
type crossing struct {
	*bench
	tree   outside.Tree
	db     *outside.Database
	after  string // go.mod with later versions of some modules of the project
	number int    // of the round

	direct, cold, change, warm *leg
	line                       []time.Duration // what the cold download lacked, over bare TCP
	joined                     []time.Duration // from the join command to the first zip from the mesh
	first                      []time.Duration // until the first byte of one zip
	firstSize                  int64           // of that zip
	typical                    string          // its file in the tree
}

// round makes a network and measures everything once.
func (c *crossing) round(ctx context.Context) (err error) {
	c.number++
	n, err := wan.New(uint64(c.number))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	var sites []*wan.Site
	for _, name := range []string{"internet", "a", "b", "client"} {
		s, err := n.Attach(name, wan.Setup{Rate: c.LinkRate / int64(c.Dilation), NoIPv6: true})
		if err != nil {
			return err
		}
		sites = append(sites, s)
	}
	internet, atA, atB, client := sites[0], sites[1], sites[2], sites[3]
	up, err := outside.NewServerAt(outside.Proxy(c.tree, c.db), netip.AddrPortFrom(internet.IPv4(), 8080).String(), internet.Listen)
	if err != nil {
		return err
	}
	defer up.Stop()
	a, err := c.open(ctx, atA, process.Options{Upstream: up.URL()})
	if err != nil {
		return err
	}
	defer a.Kill()
	for _, gomod := range []string{c.gomod, c.after} { // measured is what comes after it
		if _, err := c.download(ctx, atA, a.URL(), gomod); err != nil {
			return fmt.Errorf("%w\n%s", err, a.Log())
		}
	}
	n.SetUsual(wan.Path{Latency: c.LinkRTT * time.Duration(c.Dilation) / 2})
	if c.Dilation == 1 { // minutes of waiting for one answer after the other, else
		if err := c.leg(ctx, n, c.direct, internet, client, up.URL(), c.gomod, nil, nil); err != nil {
			return err
		}
	}
	token, err := a.Invite(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	office, err := c.open(ctx, atB, process.Options{Token: token, Upstream: "off"})
	if err != nil {
		return err
	}
	defer office.Kill()
	if err := c.firstZip(ctx, atB); err != nil {
		return err
	}
	c.joined = append(c.joined, c.since(start))
	if err := c.firstByte(ctx, atB); err != nil {
		return err
	}
	return c.second(ctx, n, atA, atB, a, office)
}

// second is what the second office is asked for.
func (c *crossing) second(ctx context.Context, n *wan.Network, atA, atB *wan.Site, a, b *process.Office) error {
	for _, l := range []*leg{c.cold, c.warm, c.change} {
		gomod := c.gomod
		if l == c.change {
			gomod = c.after
		}
		cross := func() error { return c.leg(ctx, n, l, atA, atB, b.URL(), gomod, a, b) }
		var err error
		if l == c.cold {
			err = c.profiled(ctx, offices{"first": a, "second": b}, cross)
		} else {
			err = cross()
		}
		if err != nil {
			return fmt.Errorf("%w\n%s", err, b.Log())
		}
	}
	again, err := c.download(ctx, atB, b.URL(), c.after)
	if err != nil {
		return err
	}
	last := len(c.warm.took) - 1
	start := time.Now()
	if err := bare(ctx, atA, atB, int64(c.cold.lacked[last])); err != nil {
		return err
	}
	c.line = append(c.line, c.since(start))
	c.cold.least(c.LinkRate, c.warm.took[last])
	c.change.least(c.LinkRate, again)
	return nil
}

// least notes what the last round needed at least: the time of the bytes that were
// lacked on the line, or that of the same download when all is there.
func (l *leg) least(rate int64, warm time.Duration) {
	line := time.Duration(l.lacked[len(l.lacked)-1] * 8 / float64(rate) * float64(time.Second))
	l.ideal = append(l.ideal, max(line, warm))
}

func (c *crossing) open(ctx context.Context, site *wan.Site, o process.Options) (*process.Office, error) {
	o.SumDB, o.At, o.Listen = c.db.Key(), site, officeAddr
	o.P2P = []string{"/ip4/0.0.0.0/tcp/4911", "/ip4/0.0.0.0/udp/4911/quic-v1"}
	o.Flags = []string{"--no-lan", "--office", site.Name()}
	return c.binary.Start(ctx, filepath.Join(c.work, fmt.Sprint("wan-", site.Name(), c.number)), o)
}

// leg makes one download and notes what it came to.
func (c *crossing) leg(ctx context.Context, n *wan.Network, l *leg, from, to *wan.Site, goproxy, gomod string, first, o *process.Office) error {
	stored := func() (float64, error) {
		if o == nil {
			return 0, nil
		}
		st, err := o.Status(ctx)
		if err != nil {
			return 0, err
		}
		return float64(st.Store.Stored), nil
	}
	had, err := stored()
	if err != nil {
		return err
	}
	moved, before := n.Between(from, to).Bytes, worked(o, first)
	took, err := c.download(ctx, to, goproxy, gomod)
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	for i, now := range worked(o, first) {
		l.cpu[i] = append(l.cpu[i], now-before[i])
	}
	has, err := stored()
	l.took = append(l.took, took)
	l.wire = append(l.wire, float64(n.Between(from, to).Bytes-moved))
	l.lacked = append(l.lacked, has-had)
	return err
}

// worked is how long processors worked for each office so far; nil is none.
func worked(both ...*process.Office) (times [2]time.Duration) {
	for i, o := range both {
		if o != nil {
			times[i] = o.CPUTime()
		}
	}
	return times
}

// download runs the go command at a site with an empty module cache.
func (c *crossing) download(ctx context.Context, at *wan.Site, goproxy, gomod string) (time.Duration, error) {
	dir, err := os.MkdirTemp(c.memory, "client-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	g, err := outside.NewGo(dir, "GOPROXY="+goproxy, "GOSUMDB="+c.db.Key())
	if err != nil {
		return 0, err
	}
	g.At(at.Start)
	if err := g.Write("go.mod", gomod); err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = g.Run(ctx, "mod", "download")
	return c.since(start), err
}

// since is how much time of the emulated network has passed.
func (c *crossing) since(start time.Time) time.Duration {
	return time.Since(start) / time.Duration(c.Dilation)
}

// firstZip downloads one module that the project requires, a small one if it is there.
func (c *crossing) firstZip(ctx context.Context, at *wan.Site) error {
	f, err := modfile.ParseLax("go.mod", []byte(c.gomod), nil)
	if err != nil {
		return err
	}
	if len(f.Require) == 0 {
		return fmt.Errorf("project %s requires no module: choose another --project", c.Project)
	}
	first := f.Require[0].Mod
	const small = "golang.org/x/sync"
	if v := required(c.gomod, small); v != "" {
		first = module.Version{Path: small, Version: v}
	}
	_, err = c.download(ctx, at, "http://"+officeAddr,
		fmt.Sprintf("module example.test/first\n\ngo 1.21\n\nrequire %s %s\n", first.Path, first.Version))
	return err
}

// required is the version of a module that a go.mod requires, or "".
func required(gomod, path string) string {
	f, err := modfile.ParseLax("go.mod", []byte(gomod), nil)
	if err != nil {
		return ""
	}
	for _, r := range f.Require {
		if r.Mod.Path == path {
			return r.Mod.Version
		}
	}
	return ""
}

func (c *crossing) report(out *report) {
	out.say("Across an emulated network, %v there and back, %d Mbit/s at each office; nothing but the first office has an upstream. "+
		"From the join command to the first zip from the mesh, the go command included: %.2f s. "+
		"Until the first byte of a zip of %.2f MB of which it knew nothing: %.0f ms, %.1f round trips. "+
		"The bytes that the second office lacked, in one HTTP answer over bare TCP: %.2f s.",
		c.LinkRTT, c.LinkRate/1e6, median(c.joined)/1e9, float64(c.firstSize)/1e6,
		median(c.first)/1e6, median(c.first)/float64(c.LinkRTT), median(c.line)/1e9)
	if c.Dilation > 1 {
		out.say("Time in the network runs %d times slower, and seconds but those of processors are divided by that.", c.Dilation)
	}
	header := table.Row{"go mod download", "seconds", "× the least possible", "MB on the wire", "MB lacked", "wire / lacked", "MB of zips", "wire / zips", "office CPU s", "first office CPU s"}
	var rows []table.Row
	for _, l := range []*leg{c.direct, c.cold, c.warm, c.change} {
		if len(l.took) == 0 {
			continue
		}
		row := table.Row{l.name, fmt.Sprintf("%.2f", median(l.took)/1e9), "", fmt.Sprintf("%.2f", median(l.wire)/1e6), "", "", "", "", "", ""}
		if len(l.ideal) > 0 {
			row[2] = fmt.Sprintf("%.2f", median(ratios(l.took, l.ideal)))
			row[4] = fmt.Sprintf("%.2f", median(l.lacked)/1e6)
			row[5] = fmt.Sprintf("%.3f", median(quotients(l.wire, l.lacked)))
		}
		if z := l.zips; z.size > 0 {
			row[6] = fmt.Sprintf("%.2f (%d)", float64(z.size)/1e6, z.count)
			row[7] = fmt.Sprintf("%.3f", median(l.wire)/float64(z.size))
		}
		if l != c.direct {
			row[8], row[9] = fmt.Sprintf("%.2f", median(l.cpu[0])/1e9), fmt.Sprintf("%.2f", median(l.cpu[1])/1e9)
		}
		rows = append(rows, row)
	}
	out.table(header, rows)
}

// quotients divides the measurements of each round.
func quotients(a, b []float64) []float64 {
	var q []float64
	for i := range a {
		q = append(q, a[i]/b[i])
	}
	return q
}
