package mesh

import (
	"fmt"
	"time"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Policy returns the policy that the admins of the mesh published last, nil if
// there is none. It is the same at all members that hold the same statements.
func (m *Mesh) Policy() *member.Policy { return m.view.Load().Policy() }

// PublishPolicy makes a document the policy of the mesh. It spreads as revocations
// do, to the members in reach at once, and is kept over restarts. Only admins
// publish; where two do so without knowing of each other, the same one of the two
// counts everywhere.
func (m *Mesh) PublishPolicy(document []byte) (*member.Policy, error) {
	now := time.Now()
	var p *member.Policy
	_, err := m.update(func(r *member.Roster) (changed bool, err error) {
		if _, err := m.admin(); err != nil {
			return false, err
		}
		if p, err = r.NextPolicy(m.signer, document, now); err != nil {
			return false, err
		}
		return r.AddPolicy(p)
	})
	if err != nil {
		return nil, fmt.Errorf("publish a policy: %w", err)
	}
	signal(m.urgent)
	return p, nil
}

// keepPolicy says again, in the name of this node, what was in force before: after
// its author was thrown out, or the mesh has got a new key.
func (m *Mesh) keepPolicy(before *member.Policy) {
	if before == nil {
		return
	}
	if now := m.Policy(); now != nil && now.ID() == before.ID() {
		return
	}
	if _, err := m.PublishPolicy(before.Document); err != nil {
		m.log.Error("the policy of the mesh is in force no more: publish it again", "err", err)
	}
}

// Reason says why a peer was revoked and by whom, "" for one that was not.
func (m *Mesh) Reason(id string) (reason, by string) {
	k, err := member.ParseKey(id)
	if err != nil {
		return "", ""
	}
	r := m.view.Load().Removed(k)
	if r == nil {
		return "", ""
	}
	by = r.By.String()
	if office := m.OfficeOf(r.By.Peer()); office != "" {
		by = office
	}
	return r.Reason, by
}
