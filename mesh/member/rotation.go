package member

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxRotation is the largest encoded rotation, in bytes; it holds a credential
// for each of MaxMembers.
const MaxRotation = 1 << 20

// ErrRotation says that a rotation does not hold.
var ErrRotation = errors.New("rotation of the mesh key does not hold")

// ErrDivided says that a mesh key was rotated twice, and that no rule says for whom
// which of the two counts.
var ErrDivided = errors.New("two rotations of the mesh key stand against each other")

const domainRotation = "meshproxy rotation v1"

type rotationWire struct {
	Mesh      Key         `cbor:"1,keyasint"` // the old one
	By        Key         `cbor:"2,keyasint"`
	Payload   []byte      `cbor:"3,keyasint"` // rotationPayload, exactly as signed
	Signature []byte      `cbor:"4,keyasint"`
	Author    []Statement `cbor:"5,keyasint"` // its old credential, and those it rests on
}

type rotationPayload struct {
	At          int64    `cbor:"1,keyasint"`
	Credentials [][]byte `cbor:"2,keyasint"` // under the new mesh key, the author's first
}

// Rotation moves a mesh to another mesh key: an admin founds it anew and grants
// a credential to everybody who comes along. Members of the old mesh take it if
// its author is an admin there; whoever has only the old mesh key cannot make one.
type Rotation struct {
	wire        rotationWire
	payload     rotationPayload
	credentials []*Credential
	raw         []byte
	id          ID
}

// ID names the rotation.
func (r *Rotation) ID() ID { return r.id }

// Old is the mesh key that ends.
func (r *Rotation) Old() Key { return r.wire.Mesh }

// New is the mesh key from now on.
func (r *Rotation) New() Key { return r.credentials[0].Mesh() }

// By is the admin that rotated the key.
func (r *Rotation) By() Key { return r.wire.By }

// At is when.
func (r *Rotation) At() time.Time { return time.Unix(r.payload.At, 0).UTC() }

// Takes reports whether the rotation takes a node along.
func (r *Rotation) Takes(node Key) bool {
	return slices.ContainsFunc(r.credentials, func(c *Credential) bool { return c.Subject() == node })
}

// Beats reports whether, of two rotations of one mesh key, made on two sides of a
// partition, everybody follows r and not o: the one that leaves the other's author
// behind, else the one made first. If both leave the other's author behind, no
// member can say who is right: it is ErrDivided.
func (r *Rotation) Beats(o *Rotation) (bool, error) {
	without, left := !r.Takes(o.By()), !o.Takes(r.By())
	switch {
	case without && left:
		return false, fmt.Errorf("%w: %s and %s leave each other behind", ErrDivided, r.By().Peer(), o.By().Peer())
	case without != left:
		return without, nil
	case r.payload.At != o.payload.At:
		return r.payload.At < o.payload.At, nil
	}
	return r.id.Compare(o.id) < 0, nil
}

// Author is the author's old credential, and those that it rests on.
func (r *Rotation) Author() []Statement { return r.wire.Author }

// Bytes is the encoding that ParseRotation reads. It must not be changed.
func (r *Rotation) Bytes() []byte { return r.raw }

// Rotate grants a credential under a new mesh key to the author and to each of
// others: the new mesh's first members. The grants say roles, offices and times.
func Rotate(s Signer, old Key, author []Statement, mesh Signer, own Grant, others []Grant, at time.Time) (*Rotation, error) {
	first, err := Found(mesh, own)
	if err != nil {
		return nil, err
	}
	p := rotationPayload{At: at.Unix(), Credentials: [][]byte{first.Bytes()}}
	for _, g := range others {
		c, err := Issue(first, s, g)
		if err != nil {
			return nil, err
		}
		p.Credentials = append(p.Credentials, c.Bytes())
	}
	payload := encode(p)
	sig, err := s.sign(domainRotation, old, payload)
	if err != nil {
		return nil, err
	}
	return newRotation(rotationWire{old, s.Public, payload, sig, author})
}

// ParseRotation decodes and checks a rotation. Whether its author is an admin of
// the old mesh says Roster.Follow.
func ParseRotation(b []byte) (*Rotation, error) {
	var w rotationWire
	if err := decode("rotation", b, MaxRotation, &w); err != nil {
		return nil, err
	}
	return newRotation(w)
}

func newRotation(w rotationWire) (*Rotation, error) {
	r := &Rotation{wire: w}
	if !w.By.verify(domainRotation, w.Mesh, w.Payload, w.Signature) {
		return nil, fmt.Errorf("%w: it is not signed by %s", ErrRotation, w.By)
	}
	if err := decode("rotation", w.Payload, MaxRotation, &r.payload); err != nil {
		return nil, err
	}
	if n := len(r.payload.Credentials); n == 0 || n > MaxMembers {
		return nil, fmt.Errorf("%w: %d credentials, want 1 to %d", ErrRotation, n, MaxMembers)
	}
	for _, b := range r.payload.Credentials {
		c, err := ParseCredential(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRotation, err)
		}
		r.credentials = append(r.credentials, c)
		if c.Founder() != w.By || c.Mesh() != r.New() || c.Mesh() == w.Mesh {
			return nil, fmt.Errorf("%w: a credential is not under its author and a new mesh key", ErrRotation)
		}
	}
	r.raw = encode(w)
	if len(r.raw) > MaxRotation {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrRotation, len(r.raw), MaxRotation)
	}
	r.id = sha256.Sum256(r.raw)
	return r, nil
}

// Follow returns the roster of the new mesh and node's credential in it, if the
// rotation's author is an admin of the old mesh at now and takes node along.
func (r *Roster) Follow(v *Rotation, node Key, now time.Time) (*Roster, *Credential, error) {
	if v.Old() != r.mesh {
		return nil, nil, fmt.Errorf("rotation by %s: %w", v.By(), ErrOtherMesh)
	}
	trial := r.Clone()
	if _, ok := trial.Evaluate(now).Member(v.By().Peer()); !ok {
		if _, err := trial.Vouched(v.By(), v.wire.Author, now); err != nil {
			return nil, nil, fmt.Errorf("rotation by %s: %w", v.By(), err)
		}
	}
	if i, ok := trial.Evaluate(now).Member(v.By().Peer()); !ok || i.Role != Admin {
		return nil, nil, fmt.Errorf("%w: %s is no admin of the mesh", ErrRotation, v.By())
	}
	next := NewRoster(v.New(), v.By())
	var own *Credential
	for _, c := range v.credentials {
		if _, err := next.AddCredential(c, now); err != nil {
			return nil, nil, err
		}
		if c.Subject() == node {
			own = c
		}
	}
	if own == nil {
		return nil, nil, fmt.Errorf("%w: it leaves %s behind", ErrRotation, node)
	}
	return next, own, nil
}
