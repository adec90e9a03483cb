package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"time"

	"github.com/meshproxy/meshproxy/testnet/ports"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// room is the mesh that was brought up.
type room struct {
	Config
	bin     process.Binary
	dir     string
	out     io.Writer
	lines   carrier
	offices []*office
}

// office is one of them.
type office struct {
	name    string
	line    Line
	running *process.Office // nil after kill and stop
	listen  string          // where the office stands here, the same at each start
	url     string          // for this machine
	door    *http.Server    // lets this machine in; nil where the office stands here
}

const (
	// officePort is where an office serves in a network of its own.
	officePort = "127.0.0.1:3000"
	uiPath     = "/ui/"
	// copies is how many offices hold a zip: as many as when nobody says anything.
	copies = "2"
)

func (o *office) data(r *room) string { return filepath.Join(r.dir, o.name) }

// isRunning reports whether the office's process is there.
func (o *office) isRunning() bool { return o.running != nil && o.running.Running() }

// open brings up the network and the offices, the first of which has the upstream.
func (r *room) open(ctx context.Context) (err error) {
	if r.Root {
		networks, err := newNetworks(&r.Config)
		if err != nil {
			return err
		}
		r.lines = networks
	} else {
		r.lines = newProxies(&r.Config)
	}
	for _, described := range r.Offices {
		o := &office{name: described.Name, line: described.Line}
		if err := r.lines.attach(o.name, o.line); err != nil {
			return err
		}
		r.offices = append(r.offices, o)
		if err := r.setLatency(o); err != nil {
			return err
		}
		if err := r.start(ctx, o, true); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		if !r.JSON {
			fmt.Fprintf(r.out, "%s is up\n", o.name)
		}
	}
	return nil
}

// setLatency puts an office as far from all others as its line and theirs say.
func (r *room) setLatency(o *office) error {
	var errs []error
	set := func(other string, rtt time.Duration) {
		oneWay := (o.line.RTT + rtt) / 4
		errs = append(errs, r.lines.setLatency(o.name, other, oneWay), r.lines.setLatency(other, o.name, oneWay))
	}
	for _, other := range r.offices {
		if other != o {
			set(other.name, other.line.RTT)
		}
	}
	for _, name := range r.lines.others() {
		set(name, o.line.RTT) // as far as an office like this one
	}
	return errors.Join(errs...)
}

// start runs an office that is not running. A new one joins the first.
func (r *room) start(ctx context.Context, o *office, isNew bool) error {
	opts := process.Options{Upstream: "off", SumDB: r.SumDB, Flags: []string{"--office", o.name, "--no-lan", "--replicas", copies}}
	first := r.offices[0]
	if o == first {
		opts.Upstream = r.Upstream
	} else if isNew {
		var err error
		if opts.Token, err = first.running.Invite(ctx); err != nil {
			return err
		}
	}
	if o.listen == "" {
		var err error
		if o.listen, err = ports.Address(); err != nil {
			return err
		}
	}
	opts.Listen = o.listen
	r.lines.place(o.name, &opts)
	running, err := r.bin.Start(ctx, o.data(r), opts)
	if err != nil {
		return err
	}
	o.running = running
	if dial := r.lines.dial(o.name); dial != nil {
		return o.openDoor(dial)
	}
	o.url = running.URL()
	return nil
}

// openDoor lets this machine's go command in, past the emulated line: a client is
// on the office's own network.
func (o *office) openDoor(dial func(context.Context, string, string) (net.Conn, error)) error {
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
		Transport: &http.Transport{DialContext: dial},
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
	if r.lines != nil {
		errs = append(errs, r.lines.close())
	}
	return errors.Join(errs...)
}
