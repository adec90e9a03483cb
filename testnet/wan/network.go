package wan

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Limits of a network.
const (
	mtu      = 1500
	maxSites = 250
	// maxWaiting bounds the packets on their way to one site: some hundred
	// milliseconds of a gigabit line.
	maxWaiting = 64 << 10
)

// Network is a router and the sites around it. It is safe for concurrent use.
type Network struct {
	wg sync.WaitGroup // of goroutines that move packets

	mu     sync.Mutex // guards all below, and lines and waiting packets of sites
	rng    *rand.Rand
	usual  Path
	lanes  map[[2]*Site]*lane
	sites  []*Site
	byAddr map[netip.Addr]*Site
	closed bool
}

// New makes a network without sites. Losses are drawn from seed. The caller
// closes it.
func New(seed uint64) (*Network, error) {
	if err := available(); err != nil {
		return nil, err
	}
	return &Network{
		rng:    rand.New(rand.NewPCG(seed, 0)),
		lanes:  map[[2]*Site]*lane{},
		byAddr: map[netip.Addr]*Site{},
	}, nil
}

// NAT is what stands between a site and the network.
type NAT int

// The kinds of NAT. Behind one a site has a private IPv4 address only, and
// nobody outside can begin a conversation with it.
const (
	NoNAT NAT = iota
	// EasyNAT keeps ports where it can: one inner port looks the same to
	// everybody outside, which hole punching lives from.
	EasyNAT
	// HardNAT draws a port for each conversation: what one peer sees is of no use
	// to another.
	HardNAT
)

// Setup is how a site is connected.
type Setup struct {
	Rate int64 // bits a second, each way; 0 is no limit
	NAT  NAT
	// PortMap has the NAT's router map ports for those behind it who ask by UPnP or
	// NAT-PMP: a miniupnpd runs there.
	PortMap bool
	Private bool // addresses of a company's own network, not public ones
	NoIPv4  bool
	NoIPv6  bool
}

// Site is a place in the network where processes and sockets can be.
type Site struct {
	name       string
	net        *Network
	addr4      netip.Addr // as others see it
	addr6      netip.Addr // invalid if there is none
	inner      *namespace // where processes are
	gateway    *namespace // where the TUN device is; inner unless there is a NAT
	tun        *os.File
	up, down   line
	waiting    packets
	wake       chan struct{} // cap 1: waiting has a new first packet
	unroutable int64
	mapper     *portMapper // nil without Setup.PortMap
}

// Attach makes a site.
func (n *Network) Attach(name string, s Setup) (*Site, error) {
	n.mu.Lock()
	number := len(n.sites) + 1
	n.mu.Unlock()
	if number > maxSites {
		return nil, fmt.Errorf("site %s: %d sites are the most", name, maxSites)
	}
	site := &Site{name: name, net: n, up: line{rate: s.Rate}, down: line{rate: s.Rate}, wake: make(chan struct{}, 1)}
	site.setAddrs(number, s)
	if err := site.build(s); err != nil {
		return nil, fmt.Errorf("site %s: %w", name, errors.Join(err, site.close()))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("site %s: %w", name, errors.Join(net.ErrClosed, site.close()))
	}
	n.sites = append(n.sites, site)
	for _, a := range []netip.Addr{site.addr4, site.addr6} {
		if a.IsValid() {
			n.byAddr[a] = site
		}
	}
	n.wg.Go(site.readLoop)
	n.wg.Go(site.deliverLoop)
	return site, nil
}

// setAddrs chooses addresses. The public ones are of blocks that libp2p takes
// for public; nothing outside the namespaces ever sees them.
func (s *Site) setAddrs(number int, setup Setup) {
	host := byte(number)
	if !setup.NoIPv4 || setup.NAT != NoNAT {
		s.addr4 = netip.AddrFrom4([4]byte{45, 99, host, 1})
		if setup.Private {
			s.addr4 = netip.AddrFrom4([4]byte{10, 99, host, 1})
		}
	}
	if !setup.NoIPv6 && setup.NAT == NoNAT {
		s.addr6 = netip.AddrFrom16([16]byte{0x2a, 0x10, 0x99, 14: host, 15: 1})
		if setup.Private {
			s.addr6 = netip.AddrFrom16([16]byte{0xfd, 0x10, 0x99, 14: host, 15: 1})
		}
	}
}

// Name is the name given to Attach.
func (s *Site) Name() string { return s.name }

// IPv4 is the address that others see; invalid if the site has none.
func (s *Site) IPv4() netip.Addr { return s.addr4 }

// IPv6 is the address that others see; invalid if the site has none.
func (s *Site) IPv6() netip.Addr { return s.addr6 }

// Start starts a command that was not started yet as a process of the site.
func (s *Site) Start(cmd *exec.Cmd) error { return s.inner.enter(cmd.Start) }

// Listen is net.Listen at the site.
func (s *Site) Listen(network, address string) (l net.Listener, err error) {
	err = s.inner.enter(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket at the site.
func (s *Site) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = s.inner.enter(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// DialContext dials from the site. The address is one of numbers, not a name.
func (s *Site) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", s.name, err) // a name would be resolved elsewhere
	}
	err = s.inner.enter(func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Close removes the sites. Processes there, which the caller has started, keep
// their namespace, unconnected, until they end.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	sites := n.sites
	n.sites = nil
	n.mu.Unlock()
	var errs []error
	for _, s := range sites {
		errs = append(errs, s.close())
		s.wakeUp()
	}
	n.wg.Wait()
	return errors.Join(errs...)
}

func (s *Site) close() error {
	var errs []error
	if s.mapper != nil {
		errs = append(errs, s.mapper.close())
	}
	if s.tun != nil {
		errs = append(errs, s.tun.Close())
	}
	if s.gateway != nil && s.gateway != s.inner {
		errs = append(errs, s.gateway.close())
	}
	if s.inner != nil {
		errs = append(errs, s.inner.close())
	}
	return errors.Join(errs...)
}

// SetRate changes what the site's line carries, in bits a second, each way; 0 is no
// limit. What waits for the line already leaves when it would have.
func (s *Site) SetRate(rate int64) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.up.rate, s.down.rate = rate, rate
}

// SetUsual says how paths are that SetPath has not set.
func (n *Network) SetUsual(p Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.usual = p
	for _, l := range n.lanes {
		if !l.own {
			l.path = p
		}
	}
}

// patience is how long a packet may wait for a line: twice the round trip of the usual
// path, so that one connection can fill a line. n.mu is held.
func (n *Network) patience() time.Duration { return max(bufferTime, 4*n.usual.Latency) }

// SetPath says how the path from one site to another is; that back is another one.
func (n *Network) SetPath(from, to *Site, p Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.lane(from, to)
	l.path, l.own = p, true
}

// Cut lets every packet between two sites vanish, without a word to the senders,
// or lets them through again.
func (n *Network) Cut(a, b *Site, cut bool) {
	n.CutOneWay(a, b, cut)
	n.CutOneWay(b, a, cut)
}

// CutOneWay is Cut for one direction.
func (n *Network) CutOneWay(from, to *Site, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lane(from, to).cut = cut
}

// Part cuts the sites of left from all others, in both directions, or lets them
// meet again.
func (n *Network) Part(cut bool, left ...*Site) {
	isLeft := map[*Site]bool{}
	for _, s := range left {
		isLeft[s] = true
	}
	for _, s := range n.Sites() {
		if isLeft[s] {
			continue
		}
		for _, l := range left {
			n.Cut(l, s, cut)
		}
	}
}

// Sites returns all sites, oldest first.
func (n *Network) Sites() []*Site {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Site(nil), n.sites...)
}

// Traffic returns what went between sites, one entry for each direction in which
// there was any, in the order of the sites.
func (n *Network) Traffic() []Traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Traffic
	for _, from := range n.sites {
		for _, to := range n.sites {
			if l := n.lanes[[2]*Site{from, to}]; l != nil && l.traffic != (Traffic{}) {
				t := l.traffic
				t.From, t.To = from, to
				out = append(out, t)
			}
		}
	}
	return out
}

// Between returns what went from one site to another.
func (n *Network) Between(from, to *Site) Traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.lane(from, to).traffic
	t.From, t.To = from, to
	return t
}

// lane returns the lane between two sites; the caller holds mu.
func (n *Network) lane(from, to *Site) *lane {
	key := [2]*Site{from, to}
	l := n.lanes[key]
	if l == nil {
		l = &lane{path: n.usual}
		n.lanes[key] = l
	}
	return l
}

// packet is an IP packet on its way to a site.
type packet struct {
	at   time.Time // of the next thing that happens to it
	data []byte
	lane *lane
	down bool // it has passed the line to the site
	seq  uint64
}

// packets is a heap, the next one first.
type packets struct {
	list []packet
	seq  uint64
}

func (p *packets) Len() int      { return len(p.list) }
func (p *packets) Swap(i, j int) { p.list[i], p.list[j] = p.list[j], p.list[i] }
func (p *packets) Push(x any)    { p.list = append(p.list, x.(packet)) }

// Less orders packets of the same time as they came.
func (p *packets) Less(i, j int) bool {
	if a, b := p.list[i], p.list[j]; !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	return p.list[i].seq < p.list[j].seq
}

func (p *packets) Pop() any {
	last := len(p.list) - 1
	out := p.list[last]
	p.list[last] = packet{}
	p.list = p.list[:last]
	return out
}

// add puts a packet in order; the caller holds the network's mu.
func (p *packets) add(x packet) {
	p.seq++
	x.seq = p.seq
	heap.Push(p, x)
}
