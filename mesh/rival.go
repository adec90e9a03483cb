package mesh

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Two admins may rotate one mesh key, each on one side of a partition. When the sides
// meet, everybody follows the same one of the two (member.Rotation.Beats). What the
// other side did since is then brought over by its admins as far as it closed
// something: who was left out or revoked there is revoked here, too. Who joined
// there has to join anew.

// maxRivals bounds the rotations that alarms are raised about.
const maxRivals = 8

// heardRival takes a rotation of a key that this node has left by another one.
func (m *Mesh) heardRival(from peer.ID, r *member.Rotation) error {
	m.moving.Lock()
	defer m.moving.Unlock()
	m.mu.Lock()
	i := slices.IndexFunc(m.moves, func(v move) bool { return v.rotation.Old() == r.Old() })
	if i < 0 || m.moves[i].rotation.ID() == r.ID() {
		m.mu.Unlock()
		return fmt.Errorf("rotation by %s: %w", r.By(), member.ErrOtherMesh)
	}
	ours := m.moves[i].rotation
	old := m.moves[i].old.Clone()
	m.mu.Unlock()
	// As its author sees it: it must hold, whether it takes this node along or not.
	if _, _, err := old.Follow(r, r.By(), time.Now()); err != nil {
		return err
	}
	wins, err := r.Beats(ours)
	if err == nil && !wins {
		m.spawn(func(ctx context.Context) {
			if err := m.pushMove(ctx, from, ours); err != nil {
				m.log.Debug("tell a member of the rotation that counts", "peer", from, "err", err)
			}
		})
		return nil
	}
	if err == nil && ours.Takes(r.By()) && !m.IsMember(r.By().Peer()) {
		err = fmt.Errorf("%w: %s was thrown out here since", member.ErrDivided, r.By().Peer())
	}
	if err == nil && !r.Takes(m.signer.Public) {
		err = fmt.Errorf("%w: that of %s counts, and leaves this node behind", member.ErrDivided, r.By().Peer())
	}
	if err != nil {
		m.raise(r, err)
		return err
	}
	return m.changeSides(r, ours, old, i)
}

// changeSides follows r instead of ours, and brings over what this side has closed.
// The caller holds moving.
func (m *Mesh) changeSides(r, ours *member.Rotation, old *member.Roster, kept int) error {
	before := m.view.Load()
	if err := m.moveOn(r, old, kept, nil); err != nil {
		return err
	}
	m.mu.Lock()
	clear(m.rivals)
	m.mu.Unlock()
	m.spawn(func(ctx context.Context) { m.tellMove(ctx, r) })
	after := m.view.Load()
	if self, ok := after.Member(m.host.ID()); ok && self.Role == member.Admin {
		for _, k := range m.thrownOut(ours, old.Evaluate(time.Now()), before, after) {
			if err := m.revoke(k, "left out on the other side of a partition in which the mesh key was rotated twice"); err != nil {
				m.log.Error("who was thrown out before two rotations met is in again", "peer", k.Peer(), "err", err)
			}
		}
	}
	var lost []string
	for _, i := range before.Members() {
		if k := i.Credential.Subject(); !r.Takes(k) && !ours.Takes(k) {
			lost = append(lost, i.Office)
		}
	}
	m.log.Warn("the mesh key was rotated twice: this node has changed to the rotation that counts",
		"by", r.By().Peer(), "not", ours.By().Peer(), "must join anew", strings.Join(lost, ", "))
	if b, a := before.Policy(), after.Policy(); b != nil && (a == nil || string(a.Document) != string(b.Document)) {
		m.log.Warn("the policy of the other side is in force now: publish the one of this side again if it should be")
	}
	return nil
}

// thrownOut is who is a member by the rotation that counts, and was put out on this
// side: by the rotation that does not, if it is this node's own, or since.
func (m *Mesh) thrownOut(ours *member.Rotation, old, before, after *member.View) (out []member.Key) {
	for _, i := range after.Members() {
		k := i.Credential.Subject()
		_, was := old.Member(i.Peer)
		leftOut := ours.By() == m.signer.Public && was && !ours.Takes(k)
		v := before.Removed(k)
		if leftOut || v != nil && !v.Leave() {
			out = append(out, k)
		}
	}
	return out
}

// raise keeps what an operator must act on.
func (m *Mesh) raise(r *member.Rotation, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.rivals[r.ID()]; ok || len(m.rivals) >= maxRivals {
		return
	}
	if m.rivals == nil {
		m.rivals = map[member.ID]string{}
	}
	office := r.By().Peer().String()
	if i, ok := m.view.Load().Member(r.By().Peer()); ok {
		office = i.Office
	}
	m.rivals[r.ID()] = fmt.Sprintf("the mesh key was rotated twice, the other time by %s, and this office does not follow: "+
		"offices on one of the two sides must leave the mesh and join anew (%v)", office, err)
	m.log.Error(m.rivals[r.ID()])
}

// Alarms is what is wrong with the mesh until an operator acts.
func (m *Mesh) Alarms() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Values(m.rivals))
}
