package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/provider"
	"github.com/libp2p/go-libp2p-kad-dht/provider/keystore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/sync/semaphore"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Names of the protocols after the prefix of the mesh.
const (
	helloID protocol.ID = "/hello/1"
	joinID  protocol.ID = "/join/1"
	syncID  protocol.ID = "/sync/1"
	pingID  protocol.ID = "/ping/1"
)

// Slots for streams that are being answered.
const (
	helloSlots = 128
	joinSlots  = 32
	syncSlots  = 64
	moveSlots  = 4 // each may be told a megabyte, and a credential of everybody to check
)

// session is what belongs to one mesh, and ends when the node joins another.
type session struct {
	key      member.Key
	prefix   string
	dht      *dht.IpfsDHT
	keystore keystore.Keystore
	provider *provider.SweepingProvider
	hellos   *semaphore.Weighted
	joins    *semaphore.Weighted
	syncs    *semaphore.Weighted
	moves    *semaphore.Weighted
	closers  []func() error
}

// meshPrefix begins the protocols of a mesh. It tells one mesh from another, and
// nothing about the key.
func meshPrefix(mesh member.Key) string {
	return protocolRoot + "/" + meshTag(mesh)
}

func meshTag(mesh member.Key) string {
	sum := sha256.Sum256(append([]byte("meshproxy protocols of "), mesh[:]...))
	return hex.EncodeToString(sum[:6])
}

func (s *session) protocol(id protocol.ID) protocol.ID { return protocol.ID(s.prefix) + id }

func (s *session) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// enter makes p the node's place, in which all protocols are those of its mesh.
// The node leaves the place that it had.
func (m *Mesh) enter(p *place) error {
	m.entering.Lock()
	defer m.entering.Unlock()
	if m.ctx.Err() != nil {
		return m.ctx.Err()
	}
	old := m.session.Load()
	if old != nil {
		if err := old.close(); err != nil {
			m.log.Warn("leave a mesh", "mesh", old.key, "err", err)
		}
		for _, id := range []protocol.ID{helloID, joinID, syncID, pingID, movedID} {
			m.host.RemoveStreamHandler(old.protocol(id))
		}
	}
	s := &session{
		key: p.self.Mesh(), prefix: meshPrefix(p.self.Mesh()),
		hellos: semaphore.NewWeighted(helloSlots),
		joins:  semaphore.NewWeighted(joinSlots),
		syncs:  semaphore.NewWeighted(syncSlots),
		moves:  semaphore.NewWeighted(moveSlots),
	}
	m.members.move(s.prefix)
	m.gate.setOpen(append(m.oldHellos(), s.protocol(helloID), s.protocol(joinID))...)
	if err := m.startDHT(s); err != nil {
		return errors.Join(err, s.close())
	}
	// From here on the node is there: whoever sees a member of the new mesh also
	// sees its session.
	m.mu.Lock()
	m.session.Store(s)
	m.roster, m.self, m.meshKey = p.roster, p.self, p.meshKey
	// What was told in the old place may have been kept since p was, and in its stead.
	m.unsaved = old != nil
	gone := m.evaluate(time.Now())
	m.mu.Unlock()
	m.greeted.Clear()
	m.peers.forgetAll()
	m.host.SetStreamHandler(s.protocol(helloID), m.serveHello)
	m.host.SetStreamHandler(s.protocol(joinID), m.serveJoin)
	m.host.SetStreamHandler(s.protocol(syncID), m.serveSync)
	m.host.SetStreamHandler(s.protocol(pingID), m.servePing)
	m.host.SetStreamHandler(s.protocol(movedID), m.serveMoved)
	m.startLAN(s)
	m.dismiss(gone)
	signal(m.redial)
	m.sayWhere()
	if err := m.keepRoster(); err != nil {
		m.log.Warn("keep this node's place; it is tried again", "err", err)
	}
	return nil
}

// sayWhere logs the mesh that the node is in. A mesh of this node alone is worth
// nothing to tell before Run: until then the node may join another.
func (m *Mesh) sayWhere() {
	members := m.view.Load().Len()
	attrs := []any{"mesh", m.MeshID(), "node", m.host.ID(), "office", m.Office(), "role", m.Role(), "members", members}
	switch {
	case members > 1:
		m.log.Info("in a mesh", attrs...)
	case m.running.Load():
		m.log.Info("alone, in a mesh of its own: others join by invitation, or it joins them", attrs...)
	}
}

// oldHellos serves those who have not heard of a rotation yet.
func (m *Mesh) oldHellos() []protocol.ID {
	m.mu.Lock()
	moves := slices.Clone(m.moves)
	m.mu.Unlock()
	var ids []protocol.ID
	for _, v := range moves {
		prefix := meshPrefix(v.rotation.Old())
		id := (&session{prefix: prefix}).protocol(helloID)
		m.host.SetStreamHandler(id, m.serveOldHello(prefix))
		// Members of today tell by it of another rotation of the old key.
		m.host.SetStreamHandler((&session{prefix: prefix}).protocol(movedID), m.serveMoved)
		ids = append(ids, id)
	}
	return ids
}
