package sim

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Links says how members reach each other. Members lie at random places in a
// square; the way between two of them is as long as their distance.
type Links struct {
	Near   time.Duration // one way between two members at the same place
	Across time.Duration // added to it for each side of the square; the mean distance is about half of one
	Rate   float64       // bytes a second in each direction of each member
	Notice time.Duration // how long a member that fell silent counts as connected
}

// DefaultLinks have a mean round trip of 80 ms and 100 Mbit/s. A silent peer is
// noticed as by a keepalive of 5 s that may take 3 s to be written.
var DefaultLinks = Links{Near: time.Millisecond, Across: 75 * time.Millisecond, Rate: 12.5e6, Notice: 8 * time.Second}

// Traffic counts what was sent.
type Traffic struct {
	Streams  uint64 // opened
	Messages uint64 // writes to streams, of at most 64 KiB each
	Bytes    uint64 // in them; headers of streams, TLS and TCP are not simulated
}

func (t Traffic) minus(o Traffic) Traffic {
	return Traffic{t.Streams - o.Streams, t.Messages - o.Messages, t.Bytes - o.Bytes}
}

func (t Traffic) plus(o Traffic) Traffic {
	return Traffic{t.Streams + o.Streams, t.Messages + o.Messages, t.Bytes + o.Bytes}
}

// Counts is the traffic of each protocol.
type Counts map[protocol.ID]Traffic

// Total is the traffic of the protocols named, or of all.
func (c Counts) Total(of ...protocol.ID) (t Traffic) {
	for id, one := range c {
		if len(of) == 0 || slices.Contains(of, id) {
			t = t.plus(one)
		}
	}
	return t
}

// Since returns what came on top of an earlier count.
func (c Counts) Since(before Counts) Counts {
	d := maps.Clone(c)
	for id, t := range before {
		d[id] = d[id].minus(t)
	}
	return d
}

type counter struct{ streams, messages, bytes atomic.Uint64 }

// Network joins hosts. Its methods may be called concurrently.
type Network struct {
	links Links
	hosts map[peer.ID]*Host // does not change after add

	mu       sync.Mutex // guards changes of linked and counters
	linked   atomic.Pointer[[]peer.ID]
	counters map[protocol.ID]*counter
}

func newNetwork(links Links) *Network {
	n := &Network{links: links, hosts: map[peer.ID]*Host{}, counters: map[protocol.ID]*counter{}}
	n.linked.Store(new([]peer.ID))
	return n
}

// add makes a host that is not connected yet; all are added before any link.
func (n *Network) add(id peer.ID, x, y float64) *Host {
	h := &Host{net: n, id: id, x: x, y: y, handlers: map[protocol.ID]network.StreamHandler{}, open: map[*stream]struct{}{}}
	n.hosts[id] = h
	return h
}

func (n *Network) counter(id protocol.ID) *counter {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.counters[id]
	if c == nil {
		c = &counter{}
		n.counters[id] = c
	}
	return c
}

// Counts returns what was sent so far.
func (n *Network) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := Counts{}
	for id, c := range n.counters {
		all[id] = Traffic{c.streams.Load(), c.messages.Load(), c.bytes.Load()}
	}
	return all
}

// latency is the time that one bit takes from a to b.
func (n *Network) latency(a, b *Host) time.Duration {
	return n.links.Near + time.Duration(math.Hypot(a.x-b.x, a.y-b.y)*float64(n.links.Across))
}

// reaches says when the last of size bytes that a sends now reaches b's line. What
// a sends goes out in order, at its rate.
func (n *Network) reaches(a, b *Host, size int) time.Time {
	return a.up.use(n.takes(size)).Add(n.latency(a, b))
}

// takes is how long size bytes take on one line.
func (n *Network) takes(size int) time.Duration {
	return time.Duration(float64(size) / n.links.Rate * float64(time.Second))
}

// lane is one direction of one member's line.
type lane struct {
	mu   sync.Mutex
	free time.Time // from when on it is free
}

// use takes the lane as soon as it is free, and returns until when.
func (l *lane) use(takes time.Duration) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(takes)
	return l.free
}

// link connects hosts to all that are connected, and tells everybody if told is
// set.
func (n *Network) link(hosts []*Host, told bool) {
	n.mu.Lock()
	before := *n.linked.Load()
	next := slices.Clone(before)
	for _, h := range hosts {
		h.gone.Store(false)
		if !h.linked.Swap(true) {
			next = append(next, h.id)
		}
	}
	n.linked.Store(&next)
	n.mu.Unlock()
	if !told {
		return
	}
	for _, h := range hosts {
		for _, p := range next {
			if p != h.id {
				h.notify(p, network.Notifiee.Connected)
				n.hosts[p].notify(h.id, network.Notifiee.Connected)
			}
		}
	}
}

// cut lets hosts fall silent at once, for good. The others notice together, after
// Links.Notice, and their streams break.
func (n *Network) cut(hosts []*Host) {
	var orphans []*stream
	for _, h := range hosts {
		h.gone.Store(true)
		for _, s := range h.streams() {
			s.fail(network.ErrReset)
			orphans = append(orphans, s.other)
		}
	}
	time.AfterFunc(n.links.Notice, func() { n.unlink(hosts, orphans) })
}

func (n *Network) unlink(hosts []*Host, orphans []*stream) {
	n.mu.Lock()
	lost := map[peer.ID]bool{}
	for _, h := range hosts {
		if h.gone.Load() && h.linked.Swap(false) {
			lost[h.id] = true
		}
	}
	next := slices.DeleteFunc(slices.Clone(*n.linked.Load()), func(p peer.ID) bool { return lost[p] })
	n.linked.Store(&next)
	n.mu.Unlock()
	for _, s := range orphans {
		s.fail(network.ErrReset)
	}
	for _, p := range next {
		for q := range lost {
			n.hosts[p].notify(q, network.Notifiee.Disconnected)
		}
	}
}
