package store

import (
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/verify"
)

// maxHeads bounds the headers that are remembered: those of the files of some large
// zips that come in at the same time, in about 3 MB.
const maxHeads = 16 << 10

// heads remembers the headers that were written of late. While a zip comes in, each
// of its files is looked up five times within moments, and each look-up in the
// database costs as much as hashing some KiB. What is here is what the last committed
// transaction says, or nothing: a header is taken out before a change of it is
// committed, and put back afterwards.
type heads struct {
	mu         sync.Mutex                 // guards what follows, which only the writer changes
	young, old map[verify.Digest]fileHead // a generation of half of maxHeads, and the one before
}

func newHeads() *heads { return &heads{young: make(map[verify.Digest]fileHead)} }

func (c *heads) get(sum verify.Digest) (h fileHead, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok = c.young[sum]; !ok {
		h, ok = c.old[sum]
	}
	return h, ok
}

// forget takes out all that changes speak of.
func (c *heads) forget(changes map[verify.Digest]fileHead) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sum := range changes {
		delete(c.young, sum)
		delete(c.old, sum)
	}
}

// remember keeps what changes made of headers, but for those that are gone.
func (c *heads) remember(changes map[verify.Digest]fileHead) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sum, h := range changes {
		if h.refs == 0 {
			continue
		}
		if len(c.young) >= maxHeads/2 {
			c.young, c.old = make(map[verify.Digest]fileHead, maxHeads/2), c.young
		}
		c.young[sum] = h
	}
}

// recentFile is getFile for who does not look for damage: a header that was written
// of late is not read again, and may be newer than txn.
func (s *Store) recentFile(txn *badger.Txn, sum verify.Digest) (fileHead, error) {
	if h, ok := s.heads.get(sum); ok {
		return h, nil
	}
	return getFile(txn, sum)
}

// wanted reports whether PutRaw and PutContents would keep the file: not one that is held
// already. ErrNotFound if no listing names it.
func (s *Store) wanted(sum verify.Digest) (bool, error) {
	h, ok := s.heads.get(sum)
	if !ok {
		var err error
		if h, err = s.head(sum); err != nil {
			return false, err
		}
	}
	return !h.present(), nil
}
