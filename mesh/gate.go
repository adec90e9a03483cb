package mesh

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Limits on peers that have shown no credential.
const (
	maxStrangers       = 64 // connections, all together
	maxStrangersFromIP = 16 // connections, from one address; an office behind NAT is one
	maxStrangerStreams = 4  // streams of one peer, in each direction
	strangerTime       = 12 * time.Second
)

// errStranger says that a protocol is for members only.
var errStranger = errors.New("the peer has shown no credential for this mesh")

// gate decides what peers may do. Connections pass it when they are secured, and
// streams when their protocol is known: the first point where libp2p asks
// anybody, in both directions, for its own protocols too.
type gate struct {
	isMember func(peer.ID) bool // has a credential in force
	// isConnected says whether there is a connection to a peer.
	isConnected func(peer.ID) bool
	patience    time.Duration // with strangers

	mu        sync.Mutex // guards all below
	open      map[protocol.ID]bool
	asking    map[protocol.ID]int // as open, by how many callers
	dialOK    map[peer.ID]int     // strangers that may be dialled, by how many callers
	strangers map[network.Conn]*time.Timer
	fromIP    map[netip.Addr]int
	streams   map[peer.ID]int
	blocked   map[peer.ID]time.Time // until when
	refused   uint64
	closed    bool
}

var _ connmgr.ConnectionGater = (*gate)(nil)

func newGate(isMember, isConnected func(peer.ID) bool) *gate {
	return &gate{
		isMember: isMember, isConnected: isConnected,
		open:      map[protocol.ID]bool{},
		asking:    map[protocol.ID]int{},
		dialOK:    map[peer.ID]int{},
		strangers: map[network.Conn]*time.Timer{},
		fromIP:    map[netip.Addr]int{},
		streams:   map[peer.ID]int{},
		blocked:   map[peer.ID]time.Time{},
		patience:  strangerTime,
	}
}

// setOpen says which protocols strangers may use, beside identify.
func (g *gate) setOpen(ids ...protocol.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.open)
	for _, id := range append(ids, identify.ID, identify.IDPush) {
		g.open[id] = true
	}
}

func (g *gate) mayUse(p peer.ID, id protocol.ID) bool {
	if g.isMember(p) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open[id] || g.asking[id] > 0
}

// allowDial lets a stranger be dialled until the returned function is called.
func (g *gate) allowDial(p peer.ID) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dialOK[p]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.dialOK[p]--; g.dialOK[p] == 0 {
			delete(g.dialOK, p)
		}
	}
}

// allowProtocol opens one more protocol until the returned function is called:
// the join protocol of another mesh, for which there is no handler here.
func (g *gate) allowProtocol(id protocol.ID) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asking[id]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.asking[id]--; g.asking[id] == 0 {
			delete(g.asking, id)
		}
	}
}

// block keeps a peer away until a time, whatever it shows; zero ends that.
func (g *gate) block(p peer.ID, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.blocked, func(_ peer.ID, until time.Time) bool { return time.Now().After(until) })
	if until.IsZero() {
		delete(g.blocked, p)
	} else {
		g.blocked[p] = until
	}
}

func (g *gate) isBlocked(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.blocked[p])
}

// InterceptPeerDial lets members be dialled, and those named in a token.
func (g *gate) InterceptPeerDial(p peer.ID) bool {
	if g.isBlocked(p) {
		return false
	}
	if g.isMember(p) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dialOK[p] > 0
}

// InterceptAddrDial lets every address be tried, but ways through a relay only while
// the relay is connected: it is dialled for its own sake, and two members that are each
// dialled through the other would wait for each other, even after Close.
func (g *gate) InterceptAddrDial(_ peer.ID, a ma.Multiaddr) bool {
	if !hasProtocol(a, ma.P_CIRCUIT) {
		return true
	}
	relay, err := relayOf(a)
	return err == nil && g.isConnected(relay)
}

// relayOf is the peer through which an address leads.
func relayOf(a ma.Multiaddr) (peer.ID, error) {
	before, _ := ma.SplitFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_CIRCUIT })
	id, err := before.ValueForProtocol(ma.P_P2P)
	if err != nil {
		return "", fmt.Errorf("relay of %s: %w", a, err)
	}
	return peer.Decode(id)
}

// InterceptAccept lets everybody begin: the peer is not known yet. The resource
// manager limits how many and how often.
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured refuses who is blocked, and strangers where there are enough.
// Who was revoked is a stranger, and is told so when it says hello.
func (g *gate) InterceptSecured(dir network.Direction, p peer.ID, addrs network.ConnMultiaddrs) bool {
	if g.isBlocked(p) {
		return false
	}
	if dir == network.DirOutbound || g.isMember(p) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.room(remoteIP(addrs))
}

func (g *gate) room(ip netip.Addr) bool {
	ok := len(g.strangers) < maxStrangers && g.fromIP[ip] < maxStrangersFromIP
	if !ok {
		g.refused++
	}
	return ok && !g.closed
}

// InterceptUpgraded counts a stranger's connection, and gives it its time.
func (g *gate) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	if c.Stat().Direction == network.DirOutbound || g.isMember(c.RemotePeer()) {
		return true, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	ip := remoteIP(c)
	if !g.room(ip) {
		return false, 0
	}
	g.fromIP[ip]++
	g.strangers[c] = time.AfterFunc(g.patience, func() {
		if !g.isMember(c.RemotePeer()) {
			c.Close()
		}
	})
	return true, 0
}

// forget is called when a connection is gone, or its peer has become a member.
func (g *gate) forget(c network.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, ok := g.strangers[c]
	if !ok {
		return
	}
	t.Stop()
	delete(g.strangers, c)
	ip := remoteIP(c)
	if g.fromIP[ip]--; g.fromIP[ip] <= 0 {
		delete(g.fromIP, ip)
	}
}

// close stops all timers and lets no stranger in any more.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, t := range g.strangers {
		t.Stop()
	}
}

func remoteIP(c network.ConnMultiaddrs) netip.Addr {
	ip, err := manet.ToIP(c.RemoteMultiaddr())
	if err != nil {
		return netip.Addr{} // relayed: all relayed strangers count as one address
	}
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// gatedResources asks the gate before a stream gets its protocol.
type gatedResources struct {
	network.ResourceManager
	gate *gate
}

func (r *gatedResources) OpenStream(p peer.ID, dir network.Direction) (network.StreamManagementScope, error) {
	if err := r.gate.openStream(p, dir); err != nil {
		return nil, err
	}
	scope, err := r.ResourceManager.OpenStream(p, dir)
	if err != nil {
		r.gate.closeStream(p, dir)
		return nil, err
	}
	return &gatedStream{StreamManagementScope: scope, gate: r.gate, peer: p, dir: dir}, nil
}

// openStream counts the inbound streams of a peer. Those of members count too,
// since a peer may become one while its streams are open.
func (g *gate) openStream(p peer.ID, dir network.Direction) error {
	if dir != network.DirInbound {
		return nil
	}
	isMember := g.isMember(p)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !isMember && g.streams[p] >= maxStrangerStreams {
		g.refused++
		return fmt.Errorf("%w: too many streams", errStranger)
	}
	g.streams[p]++
	return nil
}

func (g *gate) closeStream(p peer.ID, dir network.Direction) {
	if dir != network.DirInbound {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.streams[p]--; g.streams[p] <= 0 {
		delete(g.streams, p)
	}
}

type gatedStream struct {
	network.StreamManagementScope
	gate *gate
	peer peer.ID
	dir  network.Direction
	once sync.Once
}

func (s *gatedStream) SetProtocol(id protocol.ID) error {
	if !s.gate.mayUse(s.peer, id) {
		return fmt.Errorf("protocol %s with %s: %w", id, s.peer, errStranger)
	}
	return s.StreamManagementScope.SetProtocol(id)
}

func (s *gatedStream) Done() {
	s.once.Do(func() { s.gate.closeStream(s.peer, s.dir) })
	s.StreamManagementScope.Done()
}
