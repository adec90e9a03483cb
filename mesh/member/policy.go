package member

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// MaxPolicy is the largest document of a policy, in bytes.
	MaxPolicy = 32 << 10
	// maxPolicyWire is the largest encoded policy: the document and its signature.
	maxPolicyWire = MaxPolicy + 1<<10
	// maxPolicies bounds the policies of a roster: the newest of each of so many
	// admins.
	maxPolicies = 8
	// maxCounter bounds the counter of a policy, so that there is always a next one
	// for as long as admins count in steps of one.
	maxCounter = 1 << 53
)

const domainPolicy = "meshproxy policy v1"

// ErrPolicy says that a policy does not hold.
var ErrPolicy = errors.New("policy does not hold")

type policyWire struct {
	Mesh      Key    `cbor:"1,keyasint"`
	Payload   []byte `cbor:"2,keyasint"`
	Signature []byte `cbor:"3,keyasint"`
}

// Rules are what a policy says: a document that this package does not read, for
// all offices of the mesh, by an admin.
type Rules struct {
	By       Key    `cbor:"1,keyasint"`
	At       int64  `cbor:"2,keyasint"`
	Counter  uint64 `cbor:"3,keyasint"` // the highest one counts
	Document []byte `cbor:"4,keyasint"`
}

// Policy is a checked, signed statement of Rules. Which of several is in force says
// Roster.Evaluate.
type Policy struct {
	Rules
	wire policyWire
	raw  []byte
	id   ID
}

// ID names the policy.
func (p *Policy) ID() ID { return p.id }

// Bytes is the encoding that ParsePolicy reads. It must not be changed.
func (p *Policy) Bytes() []byte { return p.raw }

// SignPolicy signs rules; By and At are set.
func SignPolicy(s Signer, mesh Key, r Rules, at time.Time) (*Policy, error) {
	r.By, r.At = s.Public, at.Unix()
	payload := encode(r)
	sig, err := s.sign(domainPolicy, mesh, payload)
	if err != nil {
		return nil, err
	}
	return newPolicy(policyWire{mesh, payload, sig})
}

// ParsePolicy decodes and checks a policy.
func ParsePolicy(b []byte) (*Policy, error) {
	var w policyWire
	if err := decode("policy", b, maxPolicyWire, &w); err != nil {
		return nil, err
	}
	return newPolicy(w)
}

func newPolicy(w policyWire) (*Policy, error) {
	p := &Policy{wire: w}
	if err := decode("rules", w.Payload, maxPolicyWire, &p.Rules); err != nil {
		return nil, err
	}
	switch {
	case len(p.Document) > MaxPolicy:
		return nil, fmt.Errorf("%w: document of %d bytes, more than %d", ErrPolicy, len(p.Document), MaxPolicy)
	case p.Counter == 0 || p.Counter > maxCounter:
		return nil, fmt.Errorf("%w: counter %d, want 1 to %d", ErrPolicy, p.Counter, uint64(maxCounter))
	case p.At <= 0:
		return nil, fmt.Errorf("%w: no time", ErrPolicy)
	case !p.By.verify(domainPolicy, w.Mesh, w.Payload, w.Signature):
		return nil, fmt.Errorf("%w: it is not signed by %s", ErrPolicy, p.By)
	}
	p.raw = encode(w)
	p.id = sha256.Sum256(p.raw)
	return p, nil
}

// newerPolicy orders policies, the one that counts most first.
func newerPolicy(a, b *Policy) int {
	return cmp.Or(cmp.Compare(b.Counter, a.Counter), compareIDs(a.id, b.id))
}

// AddPolicy adds a policy by an admin that is known here. Of each admin's the newest
// one is kept, and of all the newest few: which those are does not depend on the
// order in which they come. It reports whether the set changed.
func (r *Roster) AddPolicy(p *Policy) (bool, error) {
	switch {
	case p.wire.Mesh != r.mesh:
		return false, fmt.Errorf("policy by %s: %w", p.By, ErrOtherMesh)
	case !r.knowsAdmin(p.By):
		return false, fmt.Errorf("policy by %s: %w", p.By, ErrUnfounded)
	}
	if have := r.policies[p.By]; have != nil && newerPolicy(have, p) <= 0 {
		return false, nil
	}
	next := maps.Clone(r.policies)
	next[p.By] = p
	if sorted := slices.SortedFunc(maps.Values(next), newerPolicy); len(sorted) > maxPolicies {
		if sorted[maxPolicies] == p {
			return false, nil
		}
		delete(next, sorted[maxPolicies].By)
	}
	r.policies = next
	r.arrived(Statement{Policy: p.raw})
	return true, nil
}

// knowsAdmin reports whether a key has, or had, the credential of an admin.
func (r *Roster) knowsAdmin(k Key) bool {
	return slices.ContainsFunc(r.credentials[subject{Node, k}], func(c *Credential) bool { return c.Grant().Role == Admin })
}

// policyInForce is the newest policy whose author was not thrown out; who has left
// or whose credential has run out has still said it.
func (r *Roster) policyInForce(byTarget map[Key][]*Revocation) *Policy {
	if standing := r.standingPolicies(byTarget); len(standing) > 0 {
		return standing[0]
	}
	return nil
}

// standingPolicies are those whose authors stand, the one that counts first.
func (r *Roster) standingPolicies(byTarget map[Key][]*Revocation) []*Policy {
	return slices.DeleteFunc(slices.SortedFunc(maps.Values(r.policies), newerPolicy), func(p *Policy) bool {
		return !r.knowsAdmin(p.By) || !stands(p.id, byTarget[p.By])
	})
}

// prunePolicies forgets those whose authors are forgotten.
func (r *Roster) prunePolicies() bool {
	before := len(r.policies)
	next := maps.Clone(r.policies)
	maps.DeleteFunc(next, func(k Key, _ *Policy) bool { return !r.knowsAdmin(k) })
	r.policies = next
	return len(next) != before
}

// NextPolicy signs a document as the policy that comes after the one in force. What
// somebody said who was thrown out does not count, however high its counter is.
func (r *Roster) NextPolicy(s Signer, document []byte, at time.Time) (*Policy, error) {
	next := uint64(1)
	if p := r.policyInForce(r.revokedBy()); p != nil {
		next = p.Counter + 1
	}
	return SignPolicy(s, r.mesh, Rules{Counter: next, Document: document}, at)
}

// revokedBy lists the revocations in force by their targets.
func (r *Roster) revokedBy() map[Key][]*Revocation {
	byTarget := map[Key][]*Revocation{}
	for _, rev := range r.revocationsInForce() {
		byTarget[rev.Target] = append(byTarget[rev.Target], rev)
	}
	return byTarget
}
