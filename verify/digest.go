package verify

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// h1Prefix marks a go.sum hash made by golang.org/x/mod/sumdb/dirhash.Hash1.
const h1Prefix = "h1:"

// Digest is a SHA-256 sum. It names a block: the content of a file, or the
// listing of a module (then it is what go.sum writes as h1).
type Digest [sha256.Size]byte

// DigestOf returns the SHA-256 sum of block.
func DigestOf(block []byte) Digest { return sha256.Sum256(block) }

// ParseH1 reads a go.sum hash, "h1:" and 32 bytes in standard base64.
func ParseH1(s string) (Digest, error) {
	var d Digest
	b64, ok := strings.CutPrefix(s, h1Prefix)
	if !ok {
		return d, fmt.Errorf("hash %.80q: not an %s hash", s, h1Prefix)
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil || len(sum) != len(d) {
		return d, fmt.Errorf("hash %.80q: want %d bytes in base64 after %s", s, len(d), h1Prefix)
	}
	copy(d[:], sum)
	return d, nil
}

// ParseHex reads a digest written as 64 lower-case hexadecimal digits.
func ParseHex(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) || strings.ToLower(s) != s {
		return d, fmt.Errorf("digest %.80q: want %d lower-case hexadecimal digits", s, hex.EncodedLen(len(d)))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, fmt.Errorf("digest %.80q: %w", s, err)
	}
	return d, nil
}

// H1 writes the digest as go.sum does.
func (d Digest) H1() string { return h1Prefix + base64.StdEncoding.EncodeToString(d[:]) }

// Hex writes the digest as listings do.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// String is Hex; use H1 where the digest is that of a listing.
func (d Digest) String() string { return d.Hex() }

// IsZero reports whether the digest was never set.
func (d Digest) IsZero() bool { return d == Digest{} }

// CID addresses the block with this digest.
func (d Digest) CID() cid.Cid {
	mh, err := multihash.Encode(d[:], multihash.SHA2_256)
	if err != nil {
		panic("multihash of a SHA-256 sum: " + err.Error()) // the code is known and the length fixed
	}
	return cid.NewCidV1(cid.Raw, mh)
}
