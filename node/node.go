package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/node/policy"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// Config says what an office is to be. Dir is required; zero values of the rest
// are defaults.
type Config struct {
	Dir      string        // holds everything; made if it is not there
	Listen   string        // HOST:PORT for the go command; port 0 chooses one. Default: 127.0.0.1:0
	P2P      []string      // multiaddrs for the other offices. Default: mesh.DefaultListen
	Office   string        // the office's name until an invitation gives it another. Default: the host's name
	Upstream string        // GOPROXY list; "off" takes modules from other offices only. Default: off
	SumDB    string        // GOSUMDB specification. Default: off
	NoSumDB  string        // GONOSUMDB patterns
	NoProxy  string        // GONOPROXY patterns
	Refresh  time.Duration // how long lists, latest versions and branches are good for. Default: DefaultRefresh
	MaxSize  int64         // of files, in bytes; above it zips that were not read for long are dropped. 0: no limit
	MaxAge   time.Duration // zips that were not read for so long are dropped. 0: never
	// ScrubRate is how fast everything is read and hashed again, once a day, in bytes
	// a second. Default: DefaultScrubRate; negative: not at all
	ScrubRate int64
	// MemTable is store.Options.MemTable: less than the default is for many nodes in
	// one process.
	MemTable int64
	// Listener, if set, is used instead of Listen: one that outlives the process keeps
	// clients waiting, and not refused, while it is started again.
	Listener net.Listener
	// Drain is how long the node goes on answering once it is told to end, while
	// /readyz says that it is about to. Default: 0
	Drain   time.Duration
	Policy  PolicyConfig  // what may be used, by whom
	Clients ClientsConfig // who is served
	NoLAN   bool          // do not look for members by mDNS
	Sharing Sharing       // what is done for the other offices
	Reach   Reach         // how other offices get here, where addresses alone do not say
	Version string        // of this program, for status
	Log     *slog.Logger  // default: none
	Tracer  trace.Tracer  // of requests, and of what is done for other offices' requests; default: none
}

// DefaultScrubRate reads a terabyte in three days, and leaves a disk to others.
const DefaultScrubRate = 4 << 20

// DefaultRefresh is how long mutable answers are good for.
const DefaultRefresh = time.Minute

// shutdownTime is how long answers under way may take once the node is to end.
const shutdownTime = 20 * time.Second

func (c *Config) defaults() {
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:0")
	c.Upstream = cmp.Or(c.Upstream, upstreamOff)
	c.SumDB = cmp.Or(c.SumDB, "off")
	c.Refresh = cmp.Or(c.Refresh, DefaultRefresh)
	c.ScrubRate = cmp.Or(c.ScrubRate, DefaultScrubRate)
	if c.P2P == nil {
		c.P2P = mesh.DefaultListen
	}
	if c.Office == "" {
		c.Office = hostOffice()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// hostOffice names an office after its machine.
func hostOffice() string {
	if name, err := os.Hostname(); err == nil && name != "" {
		return name
	}
	return "office"
}

const upstreamOff = "off"

// ConfigError says that a field of Config cannot be meant, as opposed to what
// cannot be had.
type ConfigError struct {
	Field string // in lower case: "upstream"
	Err   error
}

func (e *ConfigError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// Node is one office. New makes it, Run serves, Close ends it. It implements
// protocol.Backend, exchange.Backend and Control.
type Node struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	hop     string
	named   bool // whoever configured it said how the office is called

	keeper
	mesh      *mesh.Mesh
	policy    *policy.Engine
	published atomic.Pointer[publishedPolicy]
	cert      *reloaded[*tls.Certificate] // nil: no TLS
	tokens    *reloaded[[]protocol.Token] // nil: clients need none
	upstreams *upstream.Upstreams
	databases []*verify.Database
	judge     atomic.Pointer[judge]
	peers     atomic.Pointer[exchange.Exchange]

	refresh atomic.Int64 // a time.Duration: how long mutable answers are good for
	ending  atomic.Bool  // it was told to end

	http    net.Listener
	control net.Listener

	arrivals  *flights[origin]
	refreshes *flights[mutable]
	questions *inquiries
	following *follow
	foreseen  *ahead
	leftovers *leftovers
	news      *news
	counts    *counters
	requests  *requestMetrics
	activity  *activity
	sites     []site // not changed once it runs
	registry  *prometheus.Registry
	closers   []func() error // undo New, in reverse order
}

// New opens the data directory and all listeners; nothing is served before Run.
// Errors say what to do; among them are store.ErrLocked and store.ErrNewer.
func New(ctx context.Context, cfg Config) (*Node, error) {
	named := cfg.Office != ""
	cfg.defaults()
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	cfg.Dir = dir
	n := &Node{
		cfg: cfg, log: cfg.Log, started: time.Now(), hop: rand.Text(), named: named,
		arrivals: newFlights[origin](rememberFor), refreshes: newFlights[mutable](rememberFor),
		counts: newCounters(), registry: newRegistry(), following: newFollow(), foreseen: newAhead(),
		activity: newActivity(), leftovers: newLeftovers(),
	}
	n.requests = newRequestMetrics(n.registry)
	n.refresh.Store(int64(cfg.Refresh))
	n.questions = newInquiries(n.askMesh, n.followMods)
	n.news = newNews(n.push)
	n.later(n.endWork)
	for _, step := range []func(context.Context) error{n.openStore, n.openListener, n.openUpstreams, n.openDatabases, n.openPolicy, n.openClients, n.openMesh, n.openControl} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	n.later(n.endWork) // first of all: it needs the rest
	return n, nil
}

// endWork ends what clients or other offices asked for, and waits for it. More than
// once is no harm.
func (n *Node) endWork() error {
	n.arrivals.close()
	n.refreshes.close()
	n.questions.close()
	n.news.close()
	n.leftovers.close()
	return nil
}

// later has f called by Close, before all that was given to it earlier.
func (n *Node) later(f func() error) { n.closers = append(n.closers, f) }

// Close gives up everything that New opened. Work under way ends.
func (n *Node) Close() error {
	var errs []error
	for len(n.closers) > 0 {
		last := len(n.closers) - 1
		errs = append(errs, n.closers[last]())
		n.closers = n.closers[:last]
	}
	return errors.Join(errs...)
}

func (n *Node) openStore(ctx context.Context) error {
	var err error
	if n.store, err = openStore(ctx, n.cfg.Dir, store.Options{Logger: n.log, Heal: n.heal, MayDrop: n.mayDrop, MaxSize: n.cfg.MaxSize, MaxAge: n.cfg.MaxAge, ScrubRate: n.cfg.ScrubRate, MemTable: n.cfg.MemTable}); err != nil {
		return err
	}
	n.later(n.store.Close)
	return nil
}

func (n *Node) openListener(context.Context) error {
	if n.http = n.cfg.Listener; n.http == nil {
		var err error
		if n.http, err = net.Listen("tcp", n.cfg.Listen); err != nil {
			return fmt.Errorf("serve the go command: %w", err)
		}
	}
	n.later(func() error { return notClosed(n.http.Close()) })
	return nil
}

// notCanceled drops what a part says that was ended in the middle of something,
// when it was meant to end.
func notCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func notClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (n *Node) openUpstreams(context.Context) error {
	specs, err := ParseSumDB(n.cfg.SumDB)
	if err != nil {
		return &ConfigError{"sumdb", err}
	}
	databases := map[string]string{}
	for _, spec := range specs {
		databases[spec.Name] = spec.URL
	}
	temp := filepath.Join(n.cfg.Dir, "incoming")
	if err := os.RemoveAll(temp); err != nil { // what a crash left half received
		return err
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		return err
	}
	n.upstreams, err = upstream.Parse(n.cfg.Upstream, upstream.Options{
		Self: n.hopID(), Own: []string{n.http.Addr().String(), n.cfg.Listen}, TempDir: temp,
		NoProxy: n.cfg.NoProxy, Databases: databases, Log: n.log,
	})
	if err != nil {
		return &ConfigError{"upstream", err}
	}
	n.later(n.upstreams.Close)
	return nil
}

// hopID names this node in requests to upstreams, which may be other nodes. It
// is made by chance: addresses like [::]:8080 are those of many nodes.
func (n *Node) hopID() string { return n.hop }

// isOff reports whether this office fetches nothing from outside the mesh.
func (n *Node) isOff() bool { return n.upstreams.String() == upstreamOff }

func (n *Node) openControl(context.Context) error {
	l, undo, err := listenControl(n.cfg.Dir)
	if err != nil {
		return err
	}
	n.control = l
	n.later(func() error {
		undo()
		return notClosed(l.Close())
	})
	return nil
}

// Run serves until ctx ends, or something fails that the node cannot do without.
func (n *Node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// What is behind the servers ends after them: answers under way may need it.
	// When it fails, they end too.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	behind, background := errgroup.WithContext(life)
	behind.Go(func() error { return n.mesh.Run(background) })
	behind.Go(func() error { return n.saveAddrs(background) })
	behind.Go(func() error { return n.meetings(background) })
	behind.Go(func() error { return n.store.Run(background) })
	behind.Go(func() error { return n.repair(background) })
	behind.Go(func() error { return n.policy.Run(background) })
	behind.Go(func() error { return n.watchMembers(background) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-background.Done():
			return context.Cause(background)
		}
	})
	answering, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g.Go(func() error {
		defer stop()
		return n.drain(ctx, background)
	})
	modules := protocol.NewHandler(guard{n}, protocol.HandlerOptions{Self: n.hopID(), MaxAge: n.cfg.Refresh, Log: n.log, Observe: n.observe, Tracer: n.tracer()})
	n.serve(answering, g, n.secured(n.http), protocol.NewServer(n.letIn(n.handler(answering, modules)), n.log))
	n.serveSites(answering, g)
	control := controlHandler(n)
	n.diagnostics(control)
	n.serve(answering, g, n.control, &http.Server{Handler: control, ReadHeaderTimeout: controlTimeout})
	err := g.Wait()
	n.news.close()
	end()
	err = errors.Join(err, behind.Wait())
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// drain waits until the node is to end, and then for as long as it is to go on
// answering, so that whoever sends requests here can look elsewhere first.
func (n *Node) drain(ctx, background context.Context) error {
	<-ctx.Done()
	n.ending.Store(true)
	if n.cfg.Drain <= 0 || background.Err() != nil {
		return nil
	}
	n.log.Info("ending; requests are still answered", "for", n.cfg.Drain)
	select {
	case <-time.After(n.cfg.Drain):
	case <-background.Done():
	}
	return nil
}

// serve runs an HTTP server until ctx ends; then answers under way get a moment.
func (n *Node) serve(ctx context.Context, g *errgroup.Group, l net.Listener, s *http.Server) {
	g.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if err := s.Shutdown(soon); err != nil {
			return s.Close()
		}
		return nil
	})
}
