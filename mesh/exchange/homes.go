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

// fewNearest is how many peers are found by keeping the best so far; for more of
// them it is cheaper to sort all.
const fewNearest = 64

// placed is a peer and how far it is from a text.
type placed struct {
	distance [sha256.Size]byte
	id       peer.ID
}

func nearer(a, b placed) int { return bytes.Compare(a.distance[:], b.distance[:]) }

// nearestOf is nearest among the peers that are good.
func (r *ring) nearestOf(text string, n int, good func(peer.ID) bool) []peer.ID {
	key := sha256.Sum256([]byte(text))
	best := make([]placed, 0, min(n, len(r.ids))+1)
	for i, id := range r.ids {
		p := placed{id: id}
		for j, b := range r.keys[i] {
			p.distance[j] = b ^ key[j]
		}
		if n <= fewNearest {
			if len(best) == n && (n == 0 || nearer(p, best[n-1]) >= 0) || !good(id) {
				continue
			}
			at, _ := slices.BinarySearchFunc(best, p, nearer)
			best = slices.Insert(best, at, p)
			best = best[:min(len(best), n)]
		} else if good(id) {
			best = append(best, p)
		}
	}
	if n > fewNearest {
		slices.SortFunc(best, nearer)
	}
	ids := make([]peer.ID, min(n, len(best)))
	for i := range ids {
		ids[i] = best[i].id
	}
	return ids
}
