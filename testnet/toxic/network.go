package toxic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/meshproxy/meshproxy/testnet/ports"
)

// Path says how it is from one site to another. The zero value has no delay.
type Path struct {
	Latency time.Duration // one way, in whole milliseconds
	Jitter  time.Duration // up to so much is added to Latency or taken away
}

// Network is a set of sites and the links between them. It is safe for concurrent
// use.
type Network struct {
	server *toxiproxy.ApiServer // which proxies ask for their settings; it serves nothing
	usual  Path
	ctx    context.Context // until Close
	stop   context.CancelFunc
	wg     sync.WaitGroup // of goroutines that accept and copy

	mu     sync.Mutex // guards all below
	sites  []*Site
	links  map[[2]*Site]*link // by who dials and who is dialled
	paths  map[[2]*Site]Path  // that are not the usual one, by where they lead from and to
	conns  map[net.Conn]bool
	closed bool
}

// New makes a network without sites; SetPath says which paths are not like usual. The
// caller closes it.
func New(usual Path) *Network {
	n := &Network{
		server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()),
		usual:  usual, links: map[[2]*Site]*link{}, paths: map[[2]*Site]Path{}, conns: map[net.Conn]bool{},
	}
	n.ctx, n.stop = context.WithCancel(context.Background())
	return n
}

// Site is where an office is: it is to listen at P2P and to announce Front.
type Site struct {
	name     string
	net      *Network
	port     int // that the office listens at, and dials from
	listener net.Listener
	up, down line
}

// Attach makes a site, with a port for its office that was free just now. Its line to
// all others together carries rate bits a second, each way; 0 is no limit.
func (n *Network) Attach(name string, rate int64) (*Site, error) {
	port, err := ports.Free()
	if err != nil {
		return nil, fmt.Errorf("site %s: %w", name, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("site %s: %w", name, err)
	}
	s := &Site{name: name, net: n, port: port, listener: l, up: newLine(rate), down: newLine(rate)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("site %s: %w", name, errors.Join(net.ErrClosed, l.Close()))
	}
	n.sites = append(n.sites, s)
	n.wg.Go(s.accept)
	return s, nil
}

// Name is the name given to Attach.
func (s *Site) Name() string { return s.name }

// P2P is the multiaddr that the site's office is to listen at, and nowhere else.
func (s *Site) P2P() string { return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", s.port) }

// Front is the multiaddr that others are to dial.
func (s *Site) Front() string {
	return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", s.listener.Addr().(*net.TCPAddr).Port)
}

// SetRate changes what the site's line carries, in bits a second, each way; 0 is no
// limit.
func (s *Site) SetRate(rate int64) {
	s.up.set(rate)
	s.down.set(rate)
}

// SetPath says how it is from one site to another; the way back is another one.
func (n *Network) SetPath(from, to *Site, p Path) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paths[[2]*Site{from, to}] = p
	var errs []error
	if l := n.links[[2]*Site{from, to}]; l != nil {
		errs = append(errs, l.setPath(forth, p))
	}
	if l := n.links[[2]*Site{to, from}]; l != nil {
		errs = append(errs, l.setPath(back, p))
	}
	return errors.Join(errs...)
}

// path returns how it is from one site to another; the caller holds mu.
func (n *Network) path(from, to *Site) Path {
	if p, ok := n.paths[[2]*Site{from, to}]; ok {
		return p
	}
	return n.usual
}

// accept takes connections to the site's front until it is closed.
func (s *Site) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		from := s.net.dialler(c)
		if from == nil || from == s || !s.net.carry(from, s, c) {
			c.Close()
		}
	}
}

// dialler is the site that a connection comes from, or nil.
func (n *Network) dialler(c net.Conn) *Site {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sites {
		if s.port == c.RemoteAddr().(*net.TCPAddr).Port {
			return s
		}
	}
	return nil
}

// carry joins a connection with another one through the link's proxy, and reports
// whether it did.
func (n *Network) carry(from, to *Site, c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, err := n.link(from, to)
	if err != nil || n.closed {
		return false
	}
	far, err := net.Dial("tcp", l.proxy.Listen)
	if err != nil {
		return false
	}
	l.dialled++
	l.conns[c] = true
	n.conns[c], n.conns[far] = true, true
	var both sync.WaitGroup
	both.Go(func() { l.copy(passage{ctx: n.ctx, up: from.up, down: to.down, count: &l.forth}, far, c) })
	both.Go(func() { l.copy(passage{ctx: n.ctx, up: to.up, down: from.down, count: &l.back}, c, far) })
	n.wg.Go(func() {
		both.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(l.conns, c)
		delete(n.conns, c)
		delete(n.conns, far)
	})
	return true
}

// Cut lets whatever is sent between two sites vanish, without a word to the senders,
// or lets it through again.
func (n *Network) Cut(a, b *Site, cut bool) error {
	return errors.Join(n.CutOneWay(a, b, cut), n.CutOneWay(b, a, cut))
}

// CutOneWay is Cut for one direction.
func (n *Network) CutOneWay(from, to *Site, cut bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	own, err := n.link(from, to)
	if err != nil {
		return err
	}
	other, err := n.link(to, from)
	if err != nil {
		return err
	}
	return errors.Join(own.cut(forth, cut), other.cut(back, cut))
}

// Traffic is what one site has sent to another so far.
type Traffic struct {
	From, To *Site
	Bytes    int64 // in TCP streams, those that vanished in a cut included
	Dialled  int64 // connections that From has opened to To
}

// Traffic returns what went between sites, one entry for each direction in which
// there was any, in the order of the sites.
func (n *Network) Traffic() []Traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Traffic
	for _, from := range n.sites {
		for _, to := range n.sites {
			t := Traffic{From: from, To: to}
			if l := n.links[[2]*Site{from, to}]; l != nil {
				t.Bytes, t.Dialled = l.forth.Load(), l.dialled
			}
			if l := n.links[[2]*Site{to, from}]; l != nil {
				t.Bytes += l.back.Load()
			}
			if t.Bytes > 0 || t.Dialled > 0 {
				out = append(out, t)
			}
		}
	}
	return out
}

// Close ends every connection, and returns when nothing of the network is left.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	n.stop()
	var errs []error
	for _, s := range n.sites {
		errs = append(errs, s.listener.Close())
	}
	for c := range n.conns {
		c.Close() // the other end may have done so
	}
	for _, l := range n.links {
		l.proxy.Stop()
	}
	n.mu.Unlock()
	n.wg.Wait()
	return errors.Join(errs...)
}
