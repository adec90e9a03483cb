package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// Keyspaces: see the package comment.
const (
	spaceSchema   = 'v'
	spaceAccount  = 'a'
	spaceEpoch    = 'e'
	spaceNumber   = 'g'
	spaceFile     = 'f'
	spaceChunk    = 'd'
	spaceDamage   = 'q'
	spaceIntent   = 'i'
	spaceListing  = 'l'
	spaceZip      = 'z'
	spaceUse      = 'u'
	spaceRecord   = 'r'
	spaceConflict = 'c'
	spaceArrival  = 't'
	spacePin      = 'p'
	spaceMutable  = 'm'
	spaceSumDB    = 's'
	spaceMeta     = 'n'
	spaceData     = 'k'
	spaceFiller   = 'x'

	spaces = "vaegfdqilzurctpmsnkx" // all of them
)

// chunkSize is the largest value of a file's stream or of a listing.
const chunkSize = 1 << 20

// maxKey bounds keys that other packages choose; Badger's own limit is 65,000.
const maxKey = 4 << 10

func key(space byte, parts ...string) []byte {
	k := make([]byte, 1, 64)
	k[0] = space
	for i, p := range parts {
		if i > 0 {
			k = append(k, 0)
		}
		k = append(k, p...)
	}
	return k
}

func digestKey(space byte, d verify.Digest) []byte {
	return append([]byte{space}, d[:]...)
}

func chunkKey(space byte, d verify.Digest, i uint32) []byte {
	return binary.BigEndian.AppendUint32(digestKey(space, d), i)
}

// streamKey is chunk i of the stream with number num.
func streamKey(num uint64, i uint32) []byte {
	return binary.BigEndian.AppendUint32(streamPrefix(num), i)
}

func streamPrefix(num uint64) []byte { return timeKey(spaceChunk, num) }

func recordKey(n verify.Name) []byte {
	return key(spaceRecord, n.Module.Path, n.Module.Version, string(n.Kind))
}

func conflictKey(n verify.Name, d verify.Digest) []byte {
	return key(spaceConflict, n.Module.Path, n.Module.Version, string(n.Kind), string(d[:]))
}

func timeKey(space byte, t uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{space}, t)
}

// parseDigest reads a key of a keyspace and a digest.
func parseDigest(k []byte) (d verify.Digest, err error) {
	if len(k) != 1+len(d) {
		return d, damaged("key", fmt.Errorf("%q is not a digest", k))
	}
	copy(d[:], k[1:])
	return d, nil
}

// parseRecordKey reads a key of spaceRecord.
func parseRecordKey(k []byte) (n verify.Name, err error) {
	parts := strings.Split(string(k[1:]), "\x00")
	if len(parts) != 3 {
		return n, damaged("key", fmt.Errorf("%q is no name", k))
	}
	n = verify.Name{Module: module.Version{Path: parts[0], Version: parts[1]}, Kind: verify.Kind(parts[2])}
	if err := n.Check(); err != nil {
		return n, damaged("key", err)
	}
	return n, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sealSize = 4

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// seal appends to value the checksum of key and value, so that neither a changed
// value nor one that stands under another key is taken for good.
func seal(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, sum(key, value))
}

// unseal checks what seal wrote, and returns the value without a copy.
func unseal(key, sealed []byte) ([]byte, error) {
	n := len(sealed) - sealSize
	if n < 0 {
		return nil, damaged(describe(key), fmt.Errorf("value of %d bytes", len(sealed)))
	}
	if got, want := sum(key, sealed[:n]), binary.BigEndian.Uint32(sealed[n:]); got != want {
		return nil, damaged(describe(key), fmt.Errorf("checksum %08x, want %08x", got, want))
	}
	return sealed[:n], nil
}

// describe names a key for an error message.
func describe(k []byte) string {
	const digestLen = len(verify.Digest{})
	if len(k) > digestLen && bytes.IndexByte([]byte{spaceFile, spaceDamage, spaceIntent, spaceListing, spaceZip, spaceUse}, k[0]) >= 0 {
		return fmt.Sprintf("%c %x", k[0], k[1:1+digestLen])
	}
	return fmt.Sprintf("%c %.200q", k[0], k[1:])
}
