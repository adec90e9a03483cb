package member

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

type revocationWire struct {
	Mesh      Key    `cbor:"1,keyasint"`
	Payload   []byte `cbor:"2,keyasint"`
	Signature []byte `cbor:"3,keyasint"`
}

// Removal is what a revocation says: the key Target is out of the mesh, and so
// is whatever it signs, but for the statements in Keep. Target may be a node or
// the bearer key of an invitation. A node that removes itself leaves.
type Removal struct {
	Target Key    `cbor:"1,keyasint"`
	By     Key    `cbor:"2,keyasint"`
	At     int64  `cbor:"3,keyasint"`
	Reason string `cbor:"4,keyasint,omitempty"`
	Keep   []ID   `cbor:"5,keyasint,omitempty"`
}

// Leave reports whether the node took itself out. It can be invited again.
func (r *Removal) Leave() bool { return r.By == r.Target }

// maxReason is the longest reason of a revocation, in bytes.
const maxReason = 256

// ErrRevocation says that a revocation does not hold.
var ErrRevocation = errors.New("revocation does not hold")

// Revocation is a checked, signed Removal. Whether its author may revoke says
// Roster.Evaluate.
type Revocation struct {
	Removal
	wire revocationWire
	raw  []byte
	id   ID
}

// ID names the revocation.
func (r *Revocation) ID() ID { return r.id }

// Mesh is the key of the mesh that the revocation is for.
func (r *Revocation) Mesh() Key { return r.wire.Mesh }

// Bytes is the encoding that ParseRevocation reads. It must not be changed.
func (r *Revocation) Bytes() []byte { return r.raw }

// Revoke signs a removal. Keep is sorted, and must not pass MaxKeep; who leaves needs
// none, because what it signed stands.
func Revoke(s Signer, mesh Key, r Removal, at time.Time) (*Revocation, error) {
	if r.By, r.At = s.Public, at.Unix(); r.Leave() {
		r.Keep = nil
	}
	slices.SortFunc(r.Keep, compareIDs)
	r.Keep = slices.Compact(r.Keep)
	payload := encode(r)
	sig, err := s.sign(domainRevocation, mesh, payload)
	if err != nil {
		return nil, err
	}
	return newRevocation(revocationWire{mesh, payload, sig})
}

// ParseRevocation decodes and checks a revocation.
func ParseRevocation(b []byte) (*Revocation, error) {
	var w revocationWire
	if err := decode("revocation", b, MaxRevocation, &w); err != nil {
		return nil, err
	}
	return newRevocation(w)
}

func newRevocation(w revocationWire) (*Revocation, error) {
	r := &Revocation{wire: w}
	if err := decode("removal", w.Payload, MaxRevocation, &r.Removal); err != nil {
		return nil, err
	}
	switch {
	case len(r.Keep) > MaxKeep:
		return nil, fmt.Errorf("%w: lets %d statements stand, more than %d", ErrRevocation, len(r.Keep), MaxKeep)
	case r.Leave() && len(r.Keep) > 0:
		return nil, fmt.Errorf("%w: who leaves takes nothing away that %d statements could be kept from", ErrRevocation, len(r.Keep))
	case len(r.Reason) > maxReason:
		return nil, fmt.Errorf("%w: reason of %d bytes, more than %d", ErrRevocation, len(r.Reason), maxReason)
	case r.At <= 0:
		return nil, fmt.Errorf("%w: no time", ErrRevocation)
	case !slices.IsSortedFunc(r.Keep, compareIDs):
		return nil, fmt.Errorf("%w: its list is not sorted", ErrRevocation)
	case !r.By.verify(domainRevocation, w.Mesh, w.Payload, w.Signature):
		return nil, fmt.Errorf("%w: it is not signed by %s", ErrRevocation, r.By)
	}
	r.raw = encode(w)
	r.id = sha256.Sum256(r.raw)
	return r, nil
}

// keeps reports whether the revocation lets a statement of its target stand.
func (r *Revocation) keeps(id ID) bool {
	_, ok := slices.BinarySearchFunc(r.Keep, id, compareIDs)
	return ok
}

func compareIDs(a, b ID) int { return slices.Compare(a[:], b[:]) }
