package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/mesh/member"
	"github.com/meshproxy/meshproxy/node/policy"
)

// MeshPolicy is what the admins of a mesh published last.
type MeshPolicy struct {
	Counter  uint64    `json:"counter"` // 0: nothing was published
	By       string    `json:"by"`      // office, or peer ID of who is no member any more
	At       time.Time `json:"at,omitzero"`
	Document string    `json:"document"`
}

// meshPolicy is what the admins of the mesh published, for the policy engine.
func (n *Node) meshPolicy() *policy.Signed {
	if n.mesh == nil {
		return nil // not open yet
	}
	p := n.mesh.Policy()
	if p == nil {
		return nil
	}
	if s := n.published.Load(); s != nil && s.policy == p {
		return s.signed
	}
	s := &publishedPolicy{p, signedOf(n.mesh, p)}
	n.published.Store(s)
	return s.signed
}

// publishedPolicy remembers how a policy was put for the engine, which asks at each
// request.
type publishedPolicy struct {
	policy *member.Policy
	signed *policy.Signed
}

func signedOf(m *mesh.Mesh, p *member.Policy) *policy.Signed {
	id := p.ID()
	by := p.By.Peer()
	s := &policy.Signed{ID: hex.EncodeToString(id[:]), Text: p.Document, Counter: p.Counter, By: m.OfficeOf(by), At: time.Unix(p.At, 0).UTC()}
	if s.By == "" {
		s.By = by.String()
	}
	return s
}

// shares reports whether another member may have a module, or learn of it.
func (n *Node) shares(p peer.ID, path string) bool {
	office := policy.Office{Name: n.mesh.OfficeOf(p), Peer: p.String()}
	return n.policy.Shares(office, path, n.trust().Public)
}

// PolicyPublish implements Governance.
func (k *keeper) PolicyPublish(_ context.Context, document string) (*MeshPolicy, error) {
	if _, err := policy.ParseMeshDocument([]byte(document)); err != nil {
		return nil, err
	}
	m, err := k.place()
	if err != nil {
		return nil, err
	}
	p, err := m.PublishPolicy([]byte(document))
	if err != nil {
		return nil, err
	}
	k.audit.note(AuditEntry{What: auditPublished, Detail: fmt.Sprintf("policy number %d", p.Counter), Office: m.Office()})
	return meshPolicyOf(m), nil
}

// PolicyShow implements Governance.
func (k *keeper) PolicyShow(context.Context) (*MeshPolicy, error) {
	m, err := k.place()
	if err != nil {
		return nil, err
	}
	return meshPolicyOf(m), nil
}

func meshPolicyOf(m *mesh.Mesh) *MeshPolicy {
	p := m.Policy()
	if p == nil {
		return &MeshPolicy{}
	}
	s := signedOf(m, p)
	return &MeshPolicy{Counter: s.Counter, By: s.By, At: s.At, Document: string(s.Text)}
}

// PolicyPublish implements Governance.
func (c *Client) PolicyPublish(ctx context.Context, document string) (*MeshPolicy, error) {
	return ask[*MeshPolicy](ctx, c, "policypublish", document)
}

// PolicyShow implements Governance.
func (c *Client) PolicyShow(ctx context.Context) (*MeshPolicy, error) {
	return ask[*MeshPolicy](ctx, c, "policyshow", struct{}{})
}
