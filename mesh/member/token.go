package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// Why a token does not let a node in.
var (
	// ErrTokenMalformed: the text is no token; mistyped or cut off.
	ErrTokenMalformed = errors.New("not a join token")
	// ErrTokenExpired: its time is over.
	ErrTokenExpired = errors.New("join token has expired")
	// ErrTokenUsed: it has admitted as many nodes as it was made for.
	ErrTokenUsed = errors.New("join token is used up")
	// ErrTokenRevoked: it was withdrawn, or who made it was thrown out.
	ErrTokenRevoked = errors.New("join token was withdrawn")
)

// tokenPrefix marks the text of a token, and its version.
const tokenPrefix = "meshproxy1-"

// tokenSum is how many bytes of SHA-256 guard a token against mistyping.
const tokenSum = 4

// Hint says where a member may be found.
type Hint struct {
	Peer  Key      `cbor:"1,keyasint"`
	Addrs [][]byte `cbor:"2,keyasint"` // multiaddrs in binary
}

type tokenWire struct {
	Mesh  Key    `cbor:"1,keyasint"`
	Seed  []byte `cbor:"2,keyasint"`
	Links []Link `cbor:"3,keyasint"`
	Hints []Hint `cbor:"4,keyasint"`
}

// Token is the right to join: an invitation, its bearer key, and where members
// may be reached. It gives nothing but that right, and only until it expires.
type Token struct {
	Invitation *Credential
	Bearer     Signer
	Hints      []Hint
	seed       []byte
}

// NewBearer makes a fresh bearer key and the seed that a Token carries.
func NewBearer() (Signer, []byte, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return Signer{}, nil, fmt.Errorf("make a bearer key: %w", err)
	}
	s, err := bearerOf(seed)
	return s, seed, err
}

func bearerOf(seed []byte) (Signer, error) {
	private, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return Signer{}, fmt.Errorf("bearer key: %w", err)
	}
	return NewSigner(private)
}

// NewToken puts a token together; seed is what NewBearer gave.
func NewToken(invitation *Credential, seed []byte, hints []Hint) (*Token, error) {
	bearer, err := bearerOf(seed)
	if err != nil {
		return nil, err
	}
	if invitation.Subject() != bearer.Public {
		return nil, fmt.Errorf("%w: the bearer key is not the invitation's", ErrChain)
	}
	return &Token{invitation, bearer, hints[:min(len(hints), maxHints)], seed}, nil
}

// Expires is when the token stops to admit.
func (t *Token) Expires() time.Time { return time.Unix(t.Invitation.Grant().Expires, 0).UTC() }

// String is the text that ParseToken reads: letters, digits, '-' and '_'.
func (t *Token) String() string {
	body := encode(tokenWire{t.Invitation.Mesh(), t.seed, t.Invitation.Links(), t.Hints})
	sum := sha256.Sum256(body)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(body, sum[:tokenSum]...))
}

// ParseToken reads a token's text; space around it and line breaks in it are
// forgiven. The error is ErrTokenMalformed, with what is wrong.
func ParseToken(text string) (*Token, error) {
	if len(text) > MaxToken {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrTokenMalformed, len(text), MaxToken)
	}
	text = strings.Join(strings.Fields(text), "")
	b64, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrTokenMalformed, tokenPrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(b64)
	if err != nil || len(raw) <= tokenSum {
		return nil, fmt.Errorf("%w: a character is wrong, or some are missing; copy it whole", ErrTokenMalformed)
	}
	body, sum := raw[:len(raw)-tokenSum], sha256.Sum256(raw[:len(raw)-tokenSum])
	if !bytes.Equal(sum[:tokenSum], raw[len(body):]) {
		return nil, fmt.Errorf("%w: its checksum does not fit; copy it whole", ErrTokenMalformed)
	}
	return decodeToken(body)
}

func decodeToken(body []byte) (*Token, error) {
	var w tokenWire
	if err := decode("token", body, MaxToken, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTokenMalformed, err)
	}
	if len(w.Seed) != ed25519.SeedSize || len(w.Hints) > maxHints {
		return nil, fmt.Errorf("%w: its bearer key or addresses are out of bounds", ErrTokenMalformed)
	}
	for _, h := range w.Hints {
		for _, a := range h.Addrs {
			if len(h.Addrs) > maxHints || len(a) > maxAddr {
				return nil, fmt.Errorf("%w: its addresses are out of bounds", ErrTokenMalformed)
			}
		}
	}
	invitation, err := ParseInvitation(w.Mesh, w.Links)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTokenMalformed, err)
	}
	t, err := NewToken(invitation, w.Seed, w.Hints)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTokenMalformed, err)
	}
	return t, nil
}
