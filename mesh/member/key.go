package member

import (
	"crypto/ed25519"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Key is an Ed25519 public key: of a mesh, of a node, or of an invitation's
// bearer.
type Key [ed25519.PublicKeySize]byte

// KeyOf returns the key of a peer. Only Ed25519 identities can be members.
func KeyOf(id peer.ID) (Key, error) {
	var k Key
	pub, err := id.ExtractPublicKey()
	if err != nil {
		return k, fmt.Errorf("peer %s: no Ed25519 identity: %w", id, err)
	}
	return publicKey(pub)
}

func publicKey(pub crypto.PubKey) (Key, error) {
	var k Key
	raw, err := pub.Raw()
	if err != nil || pub.Type() != crypto.Ed25519 || len(raw) != len(k) {
		return k, fmt.Errorf("key of type %s: want Ed25519", pub.Type())
	}
	copy(k[:], raw)
	return k, nil
}

// Peer returns the peer ID that belongs to the key.
func (k Key) Peer() peer.ID {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "" // cannot be: the length is fixed
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return ""
	}
	return id
}

// String writes the key as its peer ID; for a mesh key this is the mesh's name.
func (k Key) String() string { return k.Peer().String() }

// IsZero reports whether the key was never set.
func (k Key) IsZero() bool { return k == Key{} }

// ParseKey reads what String wrote.
func ParseKey(s string) (Key, error) {
	id, err := peer.Decode(s)
	if err != nil {
		return Key{}, fmt.Errorf("key %.80q: %w", s, err)
	}
	return KeyOf(id)
}

func (k Key) MarshalBinary() ([]byte, error) { return k[:], nil }

func (k *Key) UnmarshalBinary(b []byte) error {
	if len(b) != len(k) {
		return fmt.Errorf("key of %d bytes: %w", len(b), ErrEncoding)
	}
	copy(k[:], b)
	return nil
}

// Signer holds a private key that signs grants and revocations.
type Signer struct {
	Public  Key
	private crypto.PrivKey
}

// NewSigner wraps a private key, which must be Ed25519.
func NewSigner(private crypto.PrivKey) (Signer, error) {
	pub, err := publicKey(private.GetPublic())
	if err != nil {
		return Signer{}, err
	}
	return Signer{pub, private}, nil
}

// The first bytes of everything signed say what is signed, so that a signature
// for one purpose is none for another.
const (
	domainGrant      = "meshproxy grant v1"
	domainWitness    = "meshproxy witness v1"
	domainRevocation = "meshproxy revocation v1"
)

func signedBytes(domain string, mesh Key, payload []byte) []byte {
	b := make([]byte, 0, len(domain)+1+len(mesh)+len(payload))
	b = append(append(b, domain...), 0)
	b = append(b, mesh[:]...)
	return append(b, payload...)
}

func (s Signer) sign(domain string, mesh Key, payload []byte) ([]byte, error) {
	sig, err := s.private.Sign(signedBytes(domain, mesh, payload))
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", domain, err)
	}
	return sig, nil
}

func (k Key) verify(domain string, mesh Key, payload, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize &&
		ed25519.Verify(k[:], signedBytes(domain, mesh, payload), sig)
}
