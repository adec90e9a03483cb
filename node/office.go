package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/mesh/member"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

const lockPatience = 3 * time.Second

// openStore opens the store of a data directory. A command that works on the
// store of a node that does not run holds it for a moment: that is waited out.
func openStore(ctx context.Context, dir string, o store.Options) (*store.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		s, err := store.Open(dir, o)
		if !errors.Is(err, store.ErrLocked) {
			return s, err
		}
		if c, dialErr := Dial(ctx, dir); dialErr == nil {
			c.Close()
			return nil, fmt.Errorf("another meshproxy serves %s: stop it, or give this one its own --data: %w", dir, err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("another process holds %s: stop it, or give this one its own --data: %w", dir, err)
		}
	}
}

// members is the mesh as the exchange wants to see it.
type members struct{ *mesh.Mesh }

// Office implements exchange.Members.
func (m members) Office(p peer.ID) string { return m.OfficeOf(p) }

func (n *Node) openMesh(context.Context) error {
	key, err := mesh.LoadKey(n.cfg.Dir, &meshState{s: n.store})
	if err != nil {
		return err
	}
	for _, a := range n.cfg.P2P {
		if _, err := multiaddr.NewMultiaddr(a); err != nil {
			return &ConfigError{"p2p", err}
		}
	}
	mc := meshConfig(n.cfg, key, n.store)
	mc.Metrics = n.registry
	if n.mesh, err = mesh.New(mc); err != nil {
		return err
	}
	n.later(func() error { return notCanceled(n.mesh.Close()) })
	if n.named {
		if err := n.mesh.Rename(n.cfg.Office); err != nil {
			n.log.Warn("this office keeps its name; to change it: meshproxy leave, and join by an invitation with the other one",
				"office", n.Office(), "err", err)
		}
	}
	if n.pins, err = loadPins(n.store); err != nil {
		return err
	}
	n.place = func() (*mesh.Mesh, error) { return n.mesh, nil }
	x := exchange.New(exchange.Config{
		Host: n.mesh.Host(), Members: members{n.mesh}, Backend: peerSide{n}, Routing: n.mesh,
		Share: n.shares, Near: n.near,
		Up: n.cfg.Sharing.Up, Down: n.cfg.Sharing.Down,
		CutOff: n.cutOff, Log: n.log, Metrics: n.registry, Tracer: n.tracer(),
	})
	n.peers.Store(x)
	n.registry.MustRegister(metrics{n})
	n.later(x.Close)
	return nil
}

func meshConfig(cfg Config, key crypto.PrivKey, s *store.Store) mesh.Config {
	return mesh.Config{
		Key: key, Office: cfg.Office, State: &meshState{s: s}, Datastore: s.Datastore("dht"),
		Log: cfg.Log, Listen: cfg.P2P, NoLAN: cfg.NoLAN,
		Announce: cfg.Reach.Announce, Peers: cfg.Reach.Peers, BehindNAT: cfg.Reach.BehindNAT, PortMap: cfg.Reach.PortMap && !onlyHere(cfg.P2P),
	}
}

// meshState keeps the mesh's own state in the store. A large mesh has a roster that is
// too large for one value, and rotations of the key keep those before.
type meshState struct {
	s  *store.Store
	mu sync.Mutex // held while something is put: a save in pieces deletes those of others
}

const (
	meshPrefix = "mesh/"
	// inPieces begins a head; what the mesh keeps is CBOR, and never begins so.
	inPieces = "in pieces: "
)

func (m *meshState) pieces(key string) pieced { return pieced{m.s, meshPrefix + "pieces/" + key + "/"} }

// Get implements mesh.State.
func (m *meshState) Get(key string) ([]byte, error) {
	value, err := m.s.Meta(meshPrefix + key)
	if head, ok := bytes.CutPrefix(value, []byte(inPieces)); ok && err == nil {
		value, err = m.pieces(key).load(head)
	}
	return value, absent(err)
}

// Put implements mesh.State.
func (m *meshState) Put(key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(value) > pieceSize {
		return m.pieces(key).save(value, func(head []byte) error {
			return m.s.SetMeta(meshPrefix+key, append([]byte(inPieces), head...))
		})
	}
	if err := m.s.SetMeta(meshPrefix+key, value); err != nil {
		return err
	}
	return m.pieces(key).dropBut("")
}

// judge is a Trust and the mesh that it is for.
type judge struct {
	*verify.Trust
	mesh string
}

// trust is the judge of what others say, for the mesh that the node is in now: it
// may join another one, and the mesh may get a new key.
func (n *Node) trust() *verify.Trust {
	id := n.mesh.MeshID()
	if j := n.judge.Load(); j != nil && j.mesh == id {
		return j.Trust
	}
	j := &judge{mesh: id, Trust: verify.NewTrust(verify.TrustOptions{
		Mesh: id, Pins: n.pins, Databases: n.databases, Private: n.cfg.NoSumDB, IsMember: n.mesh.IsMember,
	})}
	n.judge.Store(j)
	return j.Trust
}

func (n *Node) exchange() *exchange.Exchange { return n.peers.Load() }

// Office is the name of this office in the mesh.
func (n *Node) Office() string { return n.mesh.Office() }

// officeOf names a peer for people.
func (n *Node) officeOf(p peer.ID) string {
	if p == n.mesh.ID() {
		return n.Office()
	}
	if name := n.mesh.OfficeOf(p); name != "" {
		return name
	}
	return p.String()
}

// reach says how many other members there are, and how many are connected.
func (n *Node) reach() (known, connected int) {
	for _, p := range n.mesh.Members() {
		if p != n.mesh.ID() {
			known++
		}
	}
	return known, len(n.mesh.Connected())
}

// cutOffTime is how long a member that was cut off stays away: its operator has
// something to repair, and the mesh does well without it meanwhile.
const cutOffTime = time.Hour

// cutOff ends the connection to a peer that keeps sending what does not check.
func (n *Node) cutOff(p peer.ID, err error) {
	n.log.Error("a member is cut off", "office", n.officeOf(p), "peer", p.String(), "err", err)
	n.mesh.Block(p, cutOffTime)
}

// Status implements Control.
func (n *Node) Status(context.Context) (*Status, error) {
	st := storeStatus(n.cfg.Dir, n.store)
	st.Upkeep.MaxSize, st.Upkeep.MaxAge = n.store.Limits()
	st.Upkeep.ScrubRate = n.cfg.ScrubRate
	st.Running, st.Version, st.Started = true, n.cfg.Version, n.started.UTC()
	st.URL = n.scheme() + reachable(n.http.Addr())
	meshStatus(st, n.mesh)
	st.Upstreams = []string{n.upstreams.String()}
	for _, db := range n.databases {
		st.SumDB = append(st.SumDB, db.Name())
	}
	st.Served, st.Errors, st.Rejected = n.counts.served(), n.counts.errors.Load(), n.counts.rejected.Load()
	st.Conflicts, st.Alarms = conflictCount(n.store, n.databases), n.alarms()
	return st, nil
}

// reachable writes a listener's address so that it can be put into a URL: an
// unspecified one is reached at the loopback address.
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func meshStatus(st *Status, m *mesh.Mesh) {
	st.PeerID, st.Mesh, st.Office, st.Role = m.ID().String(), m.MeshID(), m.Office(), m.Role().String()
	for _, a := range m.Addrs() {
		st.P2P = append(st.P2P, a.String()+"/p2p/"+m.ID().String())
	}
	st.Known = max(0, len(m.Members())-1)
	st.Connected = len(m.Connected())
}

func storeStatus(dir string, s *store.Store) *Status {
	a := s.Accounting()
	return &Status{
		Data: dir, Conflicts: int(a.Conflicts),
		Store: Holdings{
			Releases: int(a.Releases), Zips: int(a.Zips), Files: int(a.Files),
			Shared: int(a.Shared), Logical: a.ZipBytes, Stored: a.FileBytes + a.RecordBytes, Saved: a.SharedBytes,
			Disk: s.DiskUsage(),
		},
		Upkeep: upkeep(s),
	}
}

func peersOf(m *mesh.Mesh) []Peer {
	var list []Peer
	for _, p := range m.Peers() {
		if p.Self {
			continue
		}
		list = append(list, Peer{
			ID: p.Peer.String(), Office: p.Office, Role: p.Role.String(), Connected: p.Way != mesh.Away, How: string(p.Way),
			RTT: p.RTT, Addr: p.Addr, Seen: p.LastSeen, Expires: p.Expires, Zips: p.Zips,
		})
	}
	return list
}

// release puts together what the records of a module version say.
func release(s *store.Store, r store.Release) (Release, error) {
	out := Release{Version: r.Module, Files: []string{}}
	for _, k := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		if !slices.Contains(r.Kinds, k) {
			continue
		}
		signed, err := s.Record(verify.Name{Module: r.Module, Kind: k})
		if err != nil {
			return out, err
		}
		rec := &signed.Record
		if k == verify.Zip {
			out.H1 = rec.Digest.H1()
		}
		if k != verify.Zip || s.HasZip(rec.Digest) {
			out.Files = append(out.Files, string(k))
			out.Size += rec.Size
		}
		if rec.Fetched.After(out.Fetched) || k == verify.Zip {
			out.Fetched, out.Office, out.Source = rec.Fetched, rec.Office, rec.Source
			out.Vouched = vouchText(rec.Vouch)
		}
	}
	return out, nil
}

func vouchText(v verify.Vouch) string {
	if v.Database != "" {
		return string(v.By) + " " + v.Database
	}
	return string(v.By)
}

func invite(m *mesh.Mesh, inv Invitation) (string, error) {
	role, err := member.ParseRole(inv.Role)
	if err != nil {
		return "", err
	}
	return m.Invite(mesh.InviteOptions{Role: role, Office: inv.Office, TTL: inv.TTL, Uses: inv.Uses})
}

// Join implements Control.
func (n *Node) Join(ctx context.Context, token string) (*Joined, error) {
	if err := n.mesh.Join(ctx, token); err != nil {
		return nil, err
	}
	n.arrivals.forget()
	n.refreshes.forget()
	n.retell(time.Time{}) // what came before is news there
	return &Joined{Mesh: n.mesh.MeshID(), Office: n.Office(), Role: n.mesh.Role().String(), Running: true}, nil
}
