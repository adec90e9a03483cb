package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/toxic"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// room is the mesh that was brought up.
type room struct {
	*config
	bin      process.Binary
	dir      string
	out      io.Writer
	net      *wan.Network   // nil without -root
	links    *toxic.Network // nil with -root
	internet *outside.Server
	offices  []*office
}

// office is one of them.
type office struct {
	name    string
	site    *wan.Site   // nil without -root
	place   *toxic.Site // nil with -root
	running *process.Office
	url     string // for this machine
	door    *http.Server
}

// officePort is where an office serves in a network of its own.
const officePort = "127.0.0.1:3000"

// open brings up the network and the offices, the first of which has the upstream.
func (r *room) open(ctx context.Context) error {
	if !r.root {
		r.links = toxic.New(toxic.Path{Latency: r.path.Latency, Jitter: r.path.Jitter, Rate: r.rate})
	} else if err := r.openNetwork(); err != nil {
		return err
	}
	for i := range r.config.offices {
		o := &office{name: fmt.Sprint("office", i+1)}
		r.offices = append(r.offices, o)
		var err error
		if r.net != nil {
			o.site, err = r.net.Attach(o.name, wan.Setup{Rate: r.rate})
		} else {
			o.place, err = r.links.Attach(o.name)
		}
		if err != nil {
			return err
		}
		if err := r.start(ctx, o, true); err != nil {
			return err
		}
		fmt.Fprintf(r.out, "%s is up\n", o.name)
	}
	return nil
}

// openNetwork makes the network, and a site from which the machine's own upstream
// can be reached.
func (r *room) openNetwork() (err error) {
	if r.net, err = wan.New(uint64(time.Now().UnixNano())); err != nil {
		return err
	}
	r.net.SetUsual(r.path)
	internet, err := r.net.Attach("internet", wan.Setup{})
	if err != nil {
		return err
	}
	upstream := r.upstream
	if upstream == "" {
		if upstream, err = machineProxy(); err != nil {
			return err
		}
	}
	target, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) }}
	at := netip.AddrPortFrom(internet.IPv4(), 80).String()
	r.internet, err = outside.NewServerAt(proxy, at, internet.Listen)
	return err
}

// machineProxy is the first proxy of the go command's own list.
func machineProxy() (string, error) {
	out, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOPROXY: %w; give -upstream", err)
	}
	for _, p := range strings.FieldsFunc(strings.TrimSpace(string(out)), func(c rune) bool { return c == ',' || c == '|' }) {
		if u, err := url.Parse(p); err == nil && u.Host != "" {
			return p, nil
		}
	}
	return "", fmt.Errorf("no proxy in go env GOPROXY %q: give -upstream", strings.TrimSpace(string(out)))
}

// start runs an office that is not running. A new one joins the first.
func (r *room) start(ctx context.Context, o *office, isNew bool) error {
	opts := process.Options{Upstream: "off", SumDB: r.sumdb, Flags: []string{"--office", o.name, "--no-lan"}}
	first := r.offices[0]
	if o == first {
		opts.Upstream = r.upstream
		if r.internet != nil {
			opts.Upstream = r.internet.URL()
		}
	} else if isNew {
		if first.running == nil {
			return fmt.Errorf("%s, which invites, is not running", first.name)
		}
		var err error
		if opts.Token, err = first.running.Invite(ctx); err != nil {
			return err
		}
	}
	if o.site != nil {
		opts.At, opts.Listen, opts.P2P = o.site, officePort, []string{}
	} else {
		opts.Listen = strings.TrimPrefix(o.url, "http://") // where it was before
		opts.P2P, opts.Flags = []string{o.place.P2P()}, append(opts.Flags, "--announce", o.place.Front())
	}
	running, err := r.bin.Start(ctx, filepath.Join(r.dir, o.name), opts)
	if err != nil {
		return err
	}
	o.running = running
	if o.site == nil {
		o.url = running.URL()
		return nil
	}
	return o.openDoor()
}

// openDoor lets this machine's go command in, past the emulated line: a client is
// on the office's own network.
func (o *office) openDoor() error {
	if o.door != nil {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	target := &url.URL{Scheme: "http", Host: officePort}
	o.url = "http://" + l.Addr().String()
	o.door = &http.Server{ReadHeaderTimeout: time.Minute, Handler: &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport: &http.Transport{DialContext: o.site.DialContext},
	}}
	go o.door.Serve(l) // until it is closed
	return nil
}

// close takes everything down.
func (r *room) close() error {
	var errs []error
	for _, o := range r.offices {
		if o.running != nil {
			o.running.Kill()
		}
		if o.door != nil {
			errs = append(errs, o.door.Close())
		}
	}
	if r.internet != nil {
		r.internet.Stop()
	}
	if r.net != nil {
		errs = append(errs, r.net.Close())
	}
	if r.links != nil {
		errs = append(errs, r.links.Close())
	}
	return errors.Join(errs...)
}

func (r *room) welcome() {
	t := table.NewWriter()
	t.AppendHeader(table.Row{"office", "use it", "look at it"})
	for _, o := range r.offices {
		t.AppendRow(table.Row{o.name, "export GOPROXY=" + o.url, o.url + "/ui/"})
	}
	fmt.Fprintln(r.out, t.Render())
	where := "at each"
	if r.net == nil {
		where = "between each two"
	}
	fmt.Fprintf(r.out, "Between two offices: %v there and back, %sbit/s %s. ", 2*r.path.Latency, humanize.SIWithDigits(float64(r.rate), 0, ""), where)
	fmt.Fprintf(r.out, "%s alone has an upstream. Type help.\n", r.offices[0].name)
}

const help = `cut A B      nothing passes between two offices
cut-way A B  nothing passes from the first to the second
heal [A B]   between these again, or everywhere
kill A       end the process, at once
freeze A     stop it where it is; thaw A lets it go on
start A      start it again on its data
stats        members, releases, what was served, and bytes between offices
quit         end everything`

// do is one line of the prompt.
func (r *room) do(ctx context.Context, command string, names []string) error {
	wanted := map[string]int{"cut": 2, "cut-way": 2, "kill": 1, "freeze": 1, "thaw": 1, "start": 1}
	if n, ok := wanted[command]; ok && len(names) != n || command == "heal" && len(names) != 0 && len(names) != 2 {
		return fmt.Errorf("%s: %d offices; type help", command, len(names))
	}
	var who []*office
	for _, name := range names {
		i := slices.IndexFunc(r.offices, func(o *office) bool { return o.name == name })
		if i < 0 {
			return fmt.Errorf("no office %q", name)
		}
		who = append(who, r.offices[i])
	}
	switch command {
	case "help":
		_, err := fmt.Fprintln(r.out, help)
		return err
	case "cut":
		return errors.Join(r.cut(who[0], who[1], true), r.cut(who[1], who[0], true))
	case "cut-way":
		return r.cut(who[0], who[1], true)
	case "heal":
		return r.heal(who)
	case "stats":
		return r.stats(ctx)
	case "start":
		if who[0].running != nil {
			return fmt.Errorf("%s is running", who[0].name)
		}
		return r.start(ctx, who[0], false)
	case "kill", "freeze", "thaw":
		return who[0].signal(command)
	}
	return fmt.Errorf("%q is no command; type help", command)
}

func (o *office) signal(command string) error {
	if o.running == nil {
		return fmt.Errorf("%s is not running", o.name)
	}
	switch command {
	case "freeze":
		return o.running.Freeze()
	case "thaw":
		return o.running.Thaw()
	}
	o.running.Kill()
	o.running = nil
	return nil
}

// cut lets nothing pass from one office to another, or lets it pass again.
func (r *room) cut(from, to *office, cut bool) error {
	if r.net == nil {
		return r.links.CutOneWay(from.place, to.place, cut)
	}
	r.net.CutOneWay(from.site, to.site, cut)
	return nil
}

// heal mends what is cut between two offices, or between all if none is named.
func (r *room) heal(who []*office) error {
	if len(who) == 0 {
		who = r.offices
	}
	var errs []error
	for _, a := range who {
		for _, b := range who {
			if a != b {
				errs = append(errs, r.cut(a, b, false))
			}
		}
	}
	return errors.Join(errs...)
}

// statsTime is how long an office may take to say how it is; a frozen one does not.
const statsTime = 3 * time.Second

func (r *room) stats(ctx context.Context) error {
	t := table.NewWriter()
	t.AppendHeader(table.Row{"office", "connected to", "releases", "served from"})
	for _, o := range r.offices {
		row := table.Row{o.name, "does not run", "", ""}
		if o.running != nil {
			ctx, cancel := context.WithTimeout(ctx, statsTime)
			st, err := o.running.Status(ctx)
			cancel()
			row[1] = "says nothing"
			if err == nil {
				var served []string
				for _, s := range st.Served {
					served = append(served, fmt.Sprintf("%s: %d, %s", s.Source, s.Answers, humanize.Bytes(uint64(s.Bytes))))
				}
				row = table.Row{o.name, fmt.Sprintf("%d of %d", st.Connected, st.Known), st.Store.Releases, strings.Join(served, "\n")}
			}
		}
		t.AppendRow(row)
	}
	fmt.Fprintln(r.out, t.Render())
	_, err := fmt.Fprintln(r.out, r.traffic().Render())
	return err
}

// traffic is what went between sites so far.
func (r *room) traffic() table.Writer {
	lines := table.NewWriter()
	if r.net == nil {
		lines.AppendHeader(table.Row{"from", "to", "connections", "bytes"})
		for _, l := range r.links.Traffic() {
			lines.AppendRow(table.Row{l.From.Name(), l.To.Name(), l.Dialled, humanize.Bytes(uint64(l.Bytes))})
		}
		return lines
	}
	lines.AppendHeader(table.Row{"from", "to", "packets", "bytes", "lost"})
	for _, l := range r.net.Traffic() {
		lines.AppendRow(table.Row{l.From.Name(), l.To.Name(), l.Packets, humanize.Bytes(uint64(l.Bytes)), l.Dropped})
	}
	return lines
}
