package exchange

import (
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// maxHeldRoots bounds the holder table; a root takes some hundred bytes.
const maxHeldRoots = 1 << 16

// holderTable remembers which peers said that they hold the files of a root. It
// is a hint: what is forgotten is found again by asking, or in the DHT.
type holderTable struct {
	mu   sync.Mutex // guards what follows
	held map[verify.Digest][]peer.ID
}

func newHolderTable() *holderTable {
	return &holderTable{held: map[verify.Digest][]peer.ID{}}
}

// add notes p as a holder, the newest first; the oldest above maxHolders goes. It
// reports whether p was not known as one.
func (t *holderTable) add(root verify.Digest, p peer.ID) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := t.held[root]
	if len(ids) > 0 && ids[0] == p {
		return false
	}
	news = !slices.Contains(ids, p)
	if ids == nil && len(t.held) >= maxHeldRoots {
		for other := range t.held { // any one: the table is a hint
			delete(t.held, other)
			break
		}
	}
	ids = slices.DeleteFunc(slices.Clone(ids), func(q peer.ID) bool { return q == p })
	t.held[root] = slices.Insert(ids[:min(len(ids), maxHolders-1)], 0, p)
	return news
}

// drop notes that p does not hold root after all.
func (t *holderTable) drop(root verify.Digest, p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := slices.DeleteFunc(slices.Clone(t.held[root]), func(q peer.ID) bool { return q == p })
	if len(ids) == 0 {
		delete(t.held, root)
	} else {
		t.held[root] = ids
	}
}

// of returns the holders known, newest first.
func (t *holderTable) of(root verify.Digest) []peer.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[root]
}
