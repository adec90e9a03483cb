package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Mesh is one node's place in a mesh. Its methods are safe for concurrent use.
type Mesh struct {
	cfg     Config
	log     *slog.Logger
	host    host.Host // the bare one; the gate holds for it too
	members *memberHost
	gate    *gate
	signer  member.Signer
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	hiring  sync.Mutex     // guards shut, and wg.Add against wg.Wait
	shut    bool           // nothing is begun any more
	wg      sync.WaitGroup // of goroutines that New, streams and lookups start
	closing sync.Once
	running atomic.Bool // Run was called

	moving   sync.Mutex // held while a rotation is followed; taken before entering
	entering sync.Mutex // held while the node moves to a mesh; taken before mu
	mu       sync.Mutex // guards roster, unsaved, self, meshKey, moves, rivals
	roster   *member.Roster
	unsaved  bool // roster has something that State does not have
	self     *member.Credential
	meshKey  crypto.PrivKey       // nil unless this node has it
	moves    []move               // rotations followed, newest last
	rivals   map[member.ID]string // rotations that stand against those followed: what to do
	view     atomic.Pointer[member.View]
	session  atomic.Pointer[session]

	peers    *peerBook
	relays   *relays
	puncher  *puncher
	holds    holds
	hellos   singleflight.Group
	syncs    singleflight.Group
	outcast  atomic.Bool   // a member said that this node was revoked
	greeted  sync.Map      // peer.ID: knows this node as a member
	changed  chan struct{} // cap 1: the roster changed, tell others
	pressing atomic.Bool   // that cannot wait: somebody is out, the rules are others, this node is found elsewhere
	urgent   chan struct{} // cap 1: somebody is out, tell everybody at once
	redial   chan struct{} // cap 1: look for members now

	announced, lookups, holders atomic.Uint64 // what the DHT was used for; for metrics
}

// New starts a node: its host listens when New returns. A node that has no mesh
// in Config.State founds one, of which it is the founder, and moves to another
// when Join says so. Close ends it; Run also keeps it connected.
func New(cfg Config) (*Mesh, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	signer, err := member.NewSigner(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	m := &Mesh{
		cfg: cfg, log: cfg.Log, signer: signer,
		changed: make(chan struct{}, 1), urgent: make(chan struct{}, 1), redial: make(chan struct{}, 1),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.view.Store(&member.View{})
	m.gate = newGate(m.IsMember, m.isConnected)
	if err := m.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("mesh: %w", err), m.Close())
	}
	return m, nil
}

func (m *Mesh) start() error {
	saved, err := m.load()
	if err != nil {
		return err
	}
	if saved == nil {
		if saved, err = m.found(); err != nil {
			return err
		}
	}
	if err := m.loadMoves(); err != nil {
		m.log.Warn("rotations of the mesh key are forgotten", "err", err)
	}
	m.relays = newRelays(m.gate)
	if m.host, err = newHost(&m.cfg, m.gate, m.relays.addrs); err != nil {
		return err
	}
	if err := m.relays.serve(m.host); err != nil {
		return err
	}
	if m.puncher, err = newPuncher(m.host); err != nil {
		return err
	}
	m.members = &memberHost{Host: m.host, m: m, handlers: map[string]network.StreamHandler{}}
	m.host.Network().Notify(m.notifiee())
	if m.peers, err = newPeerBook(m); err != nil {
		return err
	}
	if err := m.enter(saved); err != nil {
		return err
	}
	return m.register()
}

// Close ends the node. It is safe to call more than once, and returns when all
// that the node started has ended.
func (m *Mesh) Close() error {
	var err error
	m.closing.Do(func() {
		m.cancel()
		m.gate.close()
		m.entering.Lock()
		defer m.entering.Unlock()
		if s := m.session.Load(); s != nil {
			err = s.close()
		}
		if m.peers != nil {
			err = errors.Join(err, m.peers.save())
		}
		if m.puncher != nil {
			err = errors.Join(err, m.puncher.Close())
		}
		if m.host != nil {
			err = errors.Join(err, m.relays.close(), m.host.Close())
		}
		m.hiring.Lock()
		m.shut = true
		m.hiring.Unlock()
		m.wg.Wait()
		err = errors.Join(err, m.keepRoster())
	})
	return err
}

// Run keeps the node connected with its mesh until ctx ends, then closes it.
func (m *Mesh) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	if m.running.Store(true); m.view.Load().Len() == 1 {
		m.sayWhere()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.redialLoop(ctx) })
	g.Go(func() error { return m.gossipLoop(ctx) })
	g.Go(func() error { return m.urgentLoop(ctx) })
	g.Go(func() error { return m.relayLoop(ctx) })
	g.Go(func() error { return m.tickLoop(ctx) })
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return errors.Join(err, m.Close())
}

// spawn runs f in a goroutine that Close waits for, unless Close has been called.
func (m *Mesh) spawn(f func(ctx context.Context)) { _ = m.hire(f) }

// hire is spawn, and reports whether f runs.
func (m *Mesh) hire(f func(ctx context.Context)) bool {
	m.hiring.Lock()
	defer m.hiring.Unlock()
	if m.shut || m.ctx.Err() != nil {
		return false
	}
	m.wg.Go(func() { f(m.ctx) })
	return true
}

// ID is the node's identity.
func (m *Mesh) ID() peer.ID { return m.host.ID() }

// Addrs are the addresses at which others are told to reach this node.
func (m *Mesh) Addrs() []ma.Multiaddr { return m.host.Addrs() }

// Key is the node's private key.
func (m *Mesh) Key() crypto.PrivKey { return m.cfg.Key }

// Host is the host for protocols among members. Protocol IDs get the prefix of
// the mesh, and move along when the node joins another one. Streams from and to
// others than members do not come about.
func (m *Mesh) Host() host.Host { return m.members }

// MeshID names the mesh: by its first key, whatever rotations came after.
func (m *Mesh) MeshID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self.Origin().String()
}

// Office is the office under which this node is known to the mesh.
func (m *Mesh) Office() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self.Grant().Office
}

// Role is what this node may do in the mesh.
func (m *Mesh) Role() member.Role {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self.Grant().Role
}

// View is the roster as it stands.
func (m *Mesh) View() *member.View { return m.view.Load() }

// IsMember reports whether p has a credential in force.
func (m *Mesh) IsMember(p peer.ID) bool {
	i, ok := m.view.Load().Member(p)
	return ok && time.Now().Before(i.Expires)
}

// Removed reports whether this node is in its mesh no more: it was revoked, or
// its credential has run out. After that it can join by a new token; one that was
// revoked needs a new identity for the same mesh.
func (m *Mesh) Removed() bool { return m.outcast.Load() || !m.IsMember(m.host.ID()) }

// isConnected reports whether there is a connection to p, relayed ones included.
func (m *Mesh) isConnected(p peer.ID) bool {
	return m.host.Network().Connectedness(p) == network.Connected
}

func (m *Mesh) isRemoved(p peer.ID) bool {
	k, err := member.KeyOf(p)
	if err != nil {
		return true // no identity that could ever be a member
	}
	r := m.view.Load().Removed(k)
	return r != nil && !r.Leave()
}

// Members returns all members with a credential in force, this node included.
func (m *Mesh) Members() []peer.ID {
	var out []peer.ID
	for _, i := range m.view.Load().Members() {
		out = append(out, i.Peer)
	}
	return out
}

// Connected returns the members that a connection is open to.
func (m *Mesh) Connected() []peer.ID {
	var out []peer.ID
	for _, p := range m.host.Network().Peers() {
		if m.IsMember(p) {
			out = append(out, p)
		}
	}
	return out
}

// OfficeOf names the office of a member, "" if p is none.
func (m *Mesh) OfficeOf(p peer.ID) string {
	i, _ := m.view.Load().Member(p)
	return i.Office
}

// update changes the roster through f and makes the change count: it is kept, revoked
// peers lose their connections before it returns, and others are told soon.
func (m *Mesh) update(f func(*member.Roster) (bool, error)) (bool, error) {
	changed, err := m.change(f, true)
	if changed {
		signal(m.changed)
	}
	return changed, err
}

// change is update without telling others. What comes from them, and is not pressing,
// need not be kept at once: they would tell it again.
func (m *Mesh) change(f func(*member.Roster) (bool, error), keep bool) (bool, error) {
	m.mu.Lock()
	before := m.roster.Arrivals()
	changed, err := f(m.roster)
	var gone []peer.ID
	var saveErr error
	if changed {
		if cannotWait(m.roster, before) {
			m.pressing.Store(true)
			keep = true
		}
		if m.unsaved = true; keep {
			saveErr = m.saveRoster()
		}
		gone = m.evaluate(time.Now())
	}
	m.mu.Unlock()
	m.dismiss(gone)
	if changed {
		signal(m.redial)
	}
	return changed, errors.Join(err, saveErr)
}

// cannotWait reports whether others must hear soon of what has entered a roster after
// so many arrivals. Of more than the roster remembers that is not known, so they must.
func cannotWait(r *member.Roster, arrivals uint64) bool {
	news := r.Since(arrivals, math.MaxInt)
	return uint64(len(news)) < r.Arrivals()-arrivals ||
		slices.ContainsFunc(news, func(s member.Statement) bool { return s.Credential == nil })
}

// evaluate renews the view and returns who is no member any more. The caller
// holds mu.
func (m *Mesh) evaluate(now time.Time) []peer.ID {
	before := m.view.Load()
	after := m.roster.Evaluate(now)
	m.view.Store(after)
	if i, ok := after.Member(m.signer.Public.Peer()); ok {
		m.self = i.Credential
	}
	var gone []peer.ID
	for _, i := range before.Members() {
		if _, ok := after.Member(i.Peer); !ok {
			gone = append(gone, i.Peer)
		}
	}
	return gone
}

// dismiss closes the connections of peers that are no members.
func (m *Mesh) dismiss(gone []peer.ID) {
	s := m.session.Load()
	for _, p := range gone {
		if m.IsMember(p) || p == m.signer.Public.Peer() {
			continue
		}
		m.log.Info("member is out", "peer", p)
		m.greeted.Delete(p)
		if s != nil {
			s.dht.RoutingTable().RemovePeer(p)
		}
		if err := m.host.Network().ClosePeer(p); err != nil {
			m.log.Debug("close connections", "peer", p, "err", err)
		}
	}
}

// Block keeps a peer away for a time, for example one that keeps lying: its
// connections close and none is made. It stays a member. Zero or less ends that.
func (m *Mesh) Block(p peer.ID, d time.Duration) {
	if d <= 0 {
		m.gate.block(p, time.Time{})
		signal(m.redial)
		return
	}
	m.gate.block(p, time.Now().Add(d))
	if err := m.host.Network().ClosePeer(p); err != nil {
		m.log.Debug("close connections", "peer", p, "err", err)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// notifiee watches connections come and go.
func (m *Mesh) notifiee() network.Notifiee {
	return &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			p := c.RemotePeer()
			if !m.IsMember(p) {
				return
			}
			m.peers.stirred()
			m.peers.connected(c)
			if c.Stat().Direction == network.DirOutbound {
				m.spawn(func(ctx context.Context) { m.greet(ctx, p) })
			}
		},
		DisconnectedF: func(n network.Network, c network.Conn) {
			m.gate.forget(c)
			p := c.RemotePeer()
			if m.IsMember(p) {
				m.peers.stirred()
			}
			if n.Connectedness(p) == network.Connected {
				return
			}
			m.greeted.Delete(p)
			m.relays.lost(p)
			if s := m.session.Load(); s != nil {
				// kad-dht itself drops a peer only after failed queries, and
				// lookups wait on each dead one.
				s.dht.RoutingTable().RemovePeer(p)
			}
			if m.IsMember(p) {
				m.peers.seen(p)
				m.peers.forget(p)
				signal(m.redial)
			}
		},
	}
}
