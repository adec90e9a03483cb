package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// maxMoves is how many rotations a node remembers, to tell those that were away.
const maxMoves = 4

const stateMoves = "mesh/moves" // movesState

type movesState struct {
	Rotations [][]byte `cbor:"1,keyasint"` // newest last
	// Roster is the old roster of each: who may be told.
	Rosters []rosterState `cbor:"2,keyasint"`
}

// move is a rotation that this node has followed, and who was in before.
type move struct {
	rotation *member.Rotation
	old      *member.Roster
}

// Rotate gives the mesh a new key, after the old one or an admin's key has
// leaked. Everybody comes along but those named in without, by peer ID; open
// invitations end. Members in reach move at once, the others when they meet one
// that has. This node is the founder from then on.
func (m *Mesh) Rotate(ctx context.Context, without ...peer.ID) error {
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		return fmt.Errorf("rotate: make a mesh key: %w", err)
	}
	mesh, err := member.NewSigner(key)
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	r, err := m.makeRotation(mesh, without)
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	policy := m.Policy()
	if err := m.follow(r, key); err != nil {
		return err
	}
	m.keepPolicy(policy)
	m.tellMove(ctx, r)
	return nil
}

func (m *Mesh) makeRotation(mesh member.Signer, without []peer.ID) (*member.Rotation, error) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	self, err := m.admin()
	if err != nil {
		return nil, err
	}
	origin := self.Origin()
	own := m.grantNode(m.signer.Public, member.Admin, self.Grant().Office, now)
	own.Origin = origin[:]
	var others []member.Grant
	for _, i := range m.view.Load().Members() {
		if i.Peer != m.host.ID() && !slices.Contains(without, i.Peer) {
			others = append(others, m.grantNode(i.Credential.Subject(), i.Role, i.Office, now))
		}
	}
	return member.Rotate(m.signer, self.Mesh(), m.roster.Bundle(self, maxHello/2), mesh, own, others, now)
}

// follow moves this node along with a rotation. key is the new mesh key, on the
// node that made it.
func (m *Mesh) follow(r *member.Rotation, key crypto.PrivKey) error {
	m.moving.Lock()
	defer m.moving.Unlock()
	m.mu.Lock()
	old, kept := m.roster.Clone(), len(m.moves)
	m.mu.Unlock()
	return m.moveOn(r, old, kept, key)
}

// moveOn moves this node from an old roster along with a rotation. The first kept of
// the moves led to that roster. The caller holds moving.
func (m *Mesh) moveOn(r *member.Rotation, old *member.Roster, kept int, key crypto.PrivKey) error {
	roster, self, err := old.Follow(r, m.signer.Public, time.Now())
	if err != nil {
		return err
	}
	m.log.Warn("the mesh key was rotated", "by", r.By(), "old", r.Old(), "new", r.New())
	p := &place{self: self, roster: roster, meshKey: key}
	if err := m.saveMove(move{r, old}, kept); err != nil {
		return err
	}
	if err := m.save(p); err != nil {
		return err
	}
	return m.enter(p)
}

func (m *Mesh) saveMove(v move, kept int) error {
	m.mu.Lock()
	m.moves = append(m.moves[:kept:kept], v)
	m.moves = m.moves[max(0, len(m.moves)-maxMoves):]
	var s movesState
	for _, v := range m.moves {
		s.Rotations = append(s.Rotations, v.rotation.Bytes())
		s.Rosters = append(s.Rosters, rosterState{v.old.Statements(func(member.ID) bool { return true })})
	}
	m.mu.Unlock()
	return m.putState(stateMoves, s)
}

func (m *Mesh) loadMoves() error {
	var s movesState
	if _, err := m.getState(stateMoves, &s); err != nil {
		return err
	}
	for i, b := range s.Rotations[:min(len(s.Rotations), len(s.Rosters), maxMoves)] {
		r, err := member.ParseRotation(b)
		if err != nil {
			return fmt.Errorf("state %s is damaged: %w", stateMoves, err)
		}
		old, err := oldRoster(r, s.Rosters[i].Statements)
		if err != nil {
			return fmt.Errorf("state %s is damaged: %w", stateMoves, err)
		}
		m.moves = append(m.moves, move{r, old})
	}
	return nil
}

func oldRoster(r *member.Rotation, statements []member.Statement) (*member.Roster, error) {
	for _, s := range statements {
		if s.Credential == nil {
			continue
		}
		c, err := member.ParseCredential(s.Credential)
		if err != nil {
			return nil, err
		}
		old := member.NewRoster(r.Old(), c.Founder())
		_, err = old.Merge(statements, time.Now())
		return old, ignoreStale(err)
	}
	return member.NewRoster(r.Old(), r.By()), nil
}

// ignoreStale: what time has taken out of a saved roster is no damage.
func ignoreStale(err error) error {
	if errors.Is(err, member.ErrEncoding) || errors.Is(err, member.ErrOtherMesh) {
		return err
	}
	return nil
}

// tellMove tells connected members of a rotation, by a protocol of the old mesh.
func (m *Mesh) tellMove(ctx context.Context, r *member.Rotation) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(gossipAtOnce)
	for _, p := range m.Connected() {
		g.Go(func() error {
			if err := m.pushMove(ctx, p, r); err != nil {
				m.log.Debug("tell a member of the rotation", "peer", p, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // none of them returns an error
}

// movedID is the protocol by which members of an old mesh are told where it went.
const movedID protocol.ID = "/moved/1"

type movedMessage struct {
	Rotation []byte `cbor:"1,keyasint"`
}

func (m *Mesh) pushMove(ctx context.Context, p peer.ID, r *member.Rotation) (err error) {
	id := (&session{prefix: meshPrefix(r.Old())}).protocol(movedID)
	s, err := m.host.NewStream(network.WithNoDial(ctx, "on an open connection"), p, id)
	if err != nil {
		return fmt.Errorf("tell %s of the rotation: %w", p, err)
	}
	w, err := newWire(ctx, s, helloTime)
	if err != nil {
		return err
	}
	defer func() { w.close(err) }()
	return w.send(movedMessage{r.Bytes()})
}

// serveMoved follows a rotation that a member tells of.
func (m *Mesh) serveMoved(s network.Stream) {
	slots := m.session.Load().moves
	if !slots.TryAcquire(1) {
		s.Reset()
		return
	}
	defer slots.Release(1)
	w, err := newWire(m.ctx, s, helloTime)
	if err != nil {
		return
	}
	var msg movedMessage
	err = w.receive(member.MaxRotation+64, &msg)
	w.close(err)
	if err == nil {
		err = m.heardMove(s.Conn().RemotePeer(), msg.Rotation)
	}
	if err != nil && !errors.Is(err, member.ErrOtherMesh) {
		m.log.Warn("a rotation is not followed", "from", s.Conn().RemotePeer(), "err", err)
	}
}

func (m *Mesh) heardMove(from peer.ID, raw []byte) error {
	r, err := member.ParseRotation(raw)
	if err != nil {
		return err
	}
	err = m.follow(r, nil)
	if errors.Is(err, member.ErrOtherMesh) {
		return m.heardRival(from, r)
	}
	if err != nil {
		return err
	}
	m.spawn(func(ctx context.Context) { m.tellMove(ctx, r) })
	return nil
}

// moveFrom returns the rotation that ended a mesh.
func (m *Mesh) moveFrom(prefix string) *move {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.moves {
		if meshPrefix(m.moves[i].rotation.Old()) == prefix {
			return &m.moves[i]
		}
	}
	return nil
}

// serveOldHello answers a member of a mesh that has moved on with the rotation.
// It is told to members of the old mesh only, who know all that it says but who
// has come along.
func (m *Mesh) serveOldHello(prefix string) network.StreamHandler {
	return func(s network.Stream) {
		serve(m, s, m.session.Load().hellos, "hello to the old mesh", func(w *wire, p peer.ID) (refusal, err error) {
			var open helloOpen
			if err := w.receive(maxHello, &open); err != nil {
				return nil, err
			}
			v := m.moveFrom(prefix)
			if v == nil {
				return ErrRefused, w.send(helloReply{Status: statusRefused})
			}
			k, err := member.KeyOf(p)
			if err != nil {
				return err, nil
			}
			m.mu.Lock()
			_, err = v.old.Vouched(k, open.Statements, time.Now())
			_, ok := v.old.Evaluate(time.Now()).Member(p)
			m.mu.Unlock()
			if !ok || !v.rotation.Takes(k) {
				return errors.Join(ErrRefused, err), w.send(helloReply{Status: statusRefused})
			}
			return nil, w.send(helloReply{Status: statusMoved, Rotation: v.rotation.Bytes()})
		})
	}
}

// offerMoves tells a peer that does not speak this mesh's protocols where the
// mesh went, in case it was away.
func (m *Mesh) offerMoves(ctx context.Context, p peer.ID) {
	m.mu.Lock()
	moves := slices.Clone(m.moves)
	m.mu.Unlock()
	for _, v := range slices.Backward(moves) { // who is not as far as that speaks only older protocols
		if err := m.pushMove(ctx, p, v.rotation); err == nil {
			return
		}
	}
}
