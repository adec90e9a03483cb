package exchange

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// homeKey is the text whose hash decides which peers are at home for n: the
// module version, so that one peer can answer for all three of its files.
func homeKey(n verify.Name) string { return n.Module.Path + "@" + n.Module.Version }

// ring orders a set of peers by distance to texts, in the key space of the DHT:
// SHA-256 of the peer ID's bytes, SHA-256 of the text, XOR.
type ring struct {
	ids  []peer.ID
	keys [][sha256.Size]byte
}

func newRing(ids []peer.ID) *ring {
	r := &ring{ids: ids, keys: make([][sha256.Size]byte, len(ids))}
	for i, id := range ids {
		r.keys[i] = sha256.Sum256([]byte(id))
	}
	return r
}

// nearest returns at most n peers, nearest to text first.
func (r *ring) nearest(text string, n int) []peer.ID {
	return r.nearestOf(text, n, func(peer.ID) bool { return true })
}

// homes returns those n peers of a ring that are at home for a text about a module:
// the nearest ones that may learn of it.
func (x *Exchange) homes(r *ring, text, path string, n int) []peer.ID {
	return r.nearestOf(text, n, func(p peer.ID) bool { return x.shares(p, path) })
}

// nearestOf is nearest among the peers that are good.
func (r *ring) nearestOf(text string, n int, good func(peer.ID) bool) []peer.ID {
	type at struct {
		distance [sha256.Size]byte
		id       peer.ID
	}
	key := sha256.Sum256([]byte(text))
	all := make([]at, 0, len(r.ids))
	for i, id := range r.ids {
		if !good(id) {
			continue
		}
		a := at{id: id}
		for j, b := range r.keys[i] {
			a.distance[j] = b ^ key[j]
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b at) int { return bytes.Compare(a.distance[:], b.distance[:]) })
	ids := make([]peer.ID, min(n, len(all)))
	for i := range ids {
		ids[i] = all[i].id
	}
	return ids
}
