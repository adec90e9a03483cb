package member

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Link is one signed grant of a chain. Its signer is the subject of the link
// before it, or the mesh key.
type Link struct {
	Payload   []byte `cbor:"1,keyasint"` // an encoded Grant, exactly as signed
	Signature []byte `cbor:"2,keyasint"`
}

// Witness is a member's signature under a grant that a bearer key signed.
type Witness struct {
	By        Key    `cbor:"1,keyasint"`
	At        int64  `cbor:"2,keyasint"`
	Signature []byte `cbor:"3,keyasint"`
}

type credentialWire struct {
	Mesh    Key      `cbor:"1,keyasint"`
	Links   []Link   `cbor:"2,keyasint"`
	Witness *Witness `cbor:"3,keyasint,omitempty"`
}

// Credential is a checked chain from a mesh key to a node, or to the bearer key
// of an invitation. Every signature and every rule that needs no roster and no
// clock holds; whether it is in force says Roster.Evaluate.
type Credential struct {
	wire   credentialWire
	grants []Grant
	ids    []ID // of each link
	raw    []byte
	id     ID
}

// Mesh is the key at the top of the chain.
func (c *Credential) Mesh() Key { return c.wire.Mesh }

// Origin is the first mesh key that the mesh had; it names the mesh for good.
func (c *Credential) Origin() Key {
	if o := c.grants[0].Origin; len(o) != 0 {
		return Key(o)
	}
	return c.wire.Mesh
}

// Grant is the last grant of the chain: the one this credential is for.
func (c *Credential) Grant() Grant { return c.grants[len(c.grants)-1] }

// Subject is the key that the credential is for.
func (c *Credential) Subject() Key { return c.Grant().Subject }

// Founder is the first node of the chain.
func (c *Credential) Founder() Key { return c.grants[0].Subject }

// Peer is the peer ID that the credential is for.
func (c *Credential) Peer() peer.ID { return c.Subject().Peer() }

// ID names the credential.
func (c *Credential) ID() ID { return c.id }

// Bytes is the encoding that ParseCredential reads. It must not be changed.
func (c *Credential) Bytes() []byte { return c.raw }

// Links returns the chain, for a Token.
func (c *Credential) Links() []Link { return slices.Clone(c.wire.Links) }

// Invitation returns the bearer key and grant under which the node joined.
func (c *Credential) Invitation() (Grant, bool) {
	if len(c.grants) < 2 || c.grants[len(c.grants)-2].Kind != Invite {
		return Grant{}, false
	}
	return c.grants[len(c.grants)-2], true
}

// WitnessedBy returns the member that enrolled the node; false if an admin
// granted it directly.
func (c *Credential) WitnessedBy() (Key, time.Time, bool) {
	if c.wire.Witness == nil {
		return Key{}, time.Time{}, false
	}
	return c.wire.Witness.By, time.Unix(c.wire.Witness.At, 0).UTC(), true
}

// linkID names a grant by an issuer, whatever witness it has.
func linkID(issuer Key, l Link) ID { return sha256.Sum256(append(issuer[:], l.Payload...)) }

// issuer is the key that signed link i.
func (c *Credential) issuer(i int) Key {
	if i == 0 {
		return c.wire.Mesh
	}
	return c.grants[i-1].Subject
}

// ParseCredential decodes and checks a credential.
func ParseCredential(b []byte) (*Credential, error) {
	var w credentialWire
	if err := decode("credential", b, MaxCredential, &w); err != nil {
		return nil, err
	}
	return newCredential(w)
}

func newCredential(w credentialWire) (*Credential, error) {
	c := &Credential{wire: w}
	if err := c.check(); err != nil {
		return nil, err
	}
	c.raw = encode(w)
	c.id = sha256.Sum256(c.raw)
	if len(c.raw) > MaxCredential {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrChain, len(c.raw), MaxCredential)
	}
	return c, nil
}

func (c *Credential) check() error {
	if len(c.wire.Links) == 0 || len(c.wire.Links) > MaxLinks {
		return fmt.Errorf("%w: %d links, want 1 to %d", ErrChain, len(c.wire.Links), MaxLinks)
	}
	issuer := c.wire.Mesh
	for i, l := range c.wire.Links {
		var g Grant
		if err := decode("grant", l.Payload, MaxCredential, &g); err != nil {
			return err
		}
		if err := g.check(); err != nil {
			return err
		}
		if !issuer.verify(domainGrant, c.wire.Mesh, l.Payload, l.Signature) {
			return fmt.Errorf("%w: link %d is not signed by %s", ErrChain, i+1, issuer)
		}
		if i > 0 {
			if err := g.mayFollow(&c.grants[i-1]); err != nil {
				return err
			}
		} else if g.Kind != Node || g.Role != Admin {
			return fmt.Errorf("%w: the mesh key grants only a founder", ErrChain)
		}
		c.grants = append(c.grants, g)
		c.ids = append(c.ids, linkID(issuer, l))
		issuer = g.Subject
	}
	return c.checkWitnesses()
}

// checkWitnesses checks the signature under a grant by invitation. Only the
// last link can have one: an inner grant by invitation is vouched for by its
// own credential, which the roster must hold.
func (c *Credential) checkWitnesses() error {
	_, invited := c.Invitation()
	w := c.wire.Witness
	if w == nil {
		if invited {
			return fmt.Errorf("%w: a grant by invitation needs the witness of a member", ErrChain)
		}
		return nil
	}
	g := c.Grant()
	skew := int64(Skew / time.Second)
	switch {
	case !invited:
		return fmt.Errorf("%w: a witness under a grant that needs none", ErrChain)
	case w.By == g.Subject:
		return fmt.Errorf("%w: a node cannot witness its own joining", ErrChain)
	case w.At < g.Issued-skew || w.At > g.Issued+skew:
		return fmt.Errorf("%w: witnessed at another time than granted", ErrChain)
	case !w.By.verify(domainWitness, c.wire.Mesh, w.payload(c.ids[len(c.ids)-1]), w.Signature):
		return fmt.Errorf("%w: the witness's signature is wrong", ErrChain)
	}
	return nil
}

func (w *Witness) payload(id ID) []byte {
	return encode([]any{w.By[:], w.At, id[:]})
}

func signGrant(s Signer, mesh Key, g Grant) (Link, error) {
	if err := g.check(); err != nil {
		return Link{}, err
	}
	payload := encode(g)
	sig, err := s.sign(domainGrant, mesh, payload)
	return Link{payload, sig}, err
}

// Found makes the founder's credential: g is what the mesh key grants.
func Found(mesh Signer, g Grant) (*Credential, error) {
	l, err := signGrant(mesh, mesh.Public, g)
	if err != nil {
		return nil, err
	}
	return newCredential(credentialWire{Mesh: mesh.Public, Links: []Link{l}})
}

// Issue grants under an admin's own credential: a node, or an invitation.
func Issue(admin *Credential, s Signer, g Grant) (*Credential, error) {
	if admin.Subject() != s.Public {
		return nil, fmt.Errorf("%w: the key is not that of the issuer's credential", ErrChain)
	}
	l, err := signGrant(s, admin.Mesh(), g)
	if err != nil {
		return nil, err
	}
	return newCredential(credentialWire{Mesh: admin.Mesh(), Links: append(admin.Links(), l)})
}

// SignJoin grants node under an invitation with its bearer key. The result is
// no credential until a member witnesses it.
func SignJoin(bearer Signer, mesh Key, g Grant) (Link, error) { return signGrant(bearer, mesh, g) }

// Witnessed joins an invitation, the grant that its bearer key signed, and the
// witness of member s into a credential.
func Witnessed(invitation *Credential, joined Link, s Signer, at time.Time) (*Credential, error) {
	w := &Witness{By: s.Public, At: at.Unix()}
	sig, err := s.sign(domainWitness, invitation.Mesh(), w.payload(linkID(invitation.Subject(), joined)))
	if err != nil {
		return nil, err
	}
	w.Signature = sig
	return newCredential(credentialWire{invitation.Mesh(), append(invitation.Links(), joined), w})
}

// ParseInvitation checks the links of a token as the chain of a bearer key.
func ParseInvitation(mesh Key, links []Link) (*Credential, error) {
	c, err := newCredential(credentialWire{Mesh: mesh, Links: links})
	if err != nil {
		return nil, err
	}
	if c.Grant().Kind != Invite {
		return nil, fmt.Errorf("%w: the chain does not end in an invitation", ErrChain)
	}
	return c, nil
}
