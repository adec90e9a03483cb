package member

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Limits on what is read. Every one is checked before memory is taken for it.
const (
	// MaxLinks bounds a chain: founder, then an invitation and a node for each
	// generation of admins.
	MaxLinks = 16
	// MaxCredential is the largest encoded credential, in bytes.
	MaxCredential = 8 << 10
	// MaxRevocation is the largest encoded revocation, in bytes; it holds MaxKeep.
	MaxRevocation = 64 << 10
	// MaxKeep bounds the statements that a revocation lets stand.
	MaxKeep = 1024
	// MaxToken is the longest token text, in bytes.
	MaxToken = 16 << 10
	// MaxOffice is the longest office name, in bytes.
	MaxOffice = 64
	// MaxUses is how many nodes one invitation may admit.
	MaxUses = 10_000
	// MaxMembers bounds the distinct nodes of a roster.
	MaxMembers = 2048
	// MaxRevocations bounds the revocations of a roster.
	MaxRevocations = 4096
	// maxHints bounds the peers, and the addresses of each, in a token.
	maxHints = 8
	// maxAddr is the longest multiaddr in a token, in bytes.
	maxAddr = 512
)

// ErrEncoding says that bytes are not an encoding of this package.
var ErrEncoding = errors.New("not a valid encoding")

var encMode, decMode = codec()

func codec() (cbor.EncMode, cbor.DecMode) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic("CBOR encoder options: " + err.Error()) // constants
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
		MaxNestedLevels:   8,
		MaxArrayElements:  MaxRevocations,
		MaxMapPairs:       64,
	}.DecMode()
	if err != nil {
		panic("CBOR decoder options: " + err.Error()) // constants
	}
	return enc, dec
}

func encode(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic("encode a membership statement: " + err.Error()) // own types only
	}
	return b
}

func decode(what string, b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("%s of %d bytes: more than %d: %w", what, len(b), limit, ErrEncoding)
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrEncoding, err)
	}
	return nil
}

// ID names a statement: the SHA-256 of its encoding.
type ID [sha256.Size]byte

func (id ID) MarshalBinary() ([]byte, error) { return id[:], nil }

func (id *ID) UnmarshalBinary(b []byte) error {
	if len(b) != len(id) {
		return fmt.Errorf("statement ID of %d bytes: %w", len(b), ErrEncoding)
	}
	copy(id[:], b)
	return nil
}

// Compare orders IDs.
func (id ID) Compare(other ID) int { return compareIDs(id, other) }
