package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// release gives back the references that the intent of a root counts, last first
// and in batches, and forgets the listing. Files without a reference go at once.
// Without an intent the root is held, or is gone already. The caller has the turn
// of the root, or is alone.
func (s *Store) release(root verify.Digest, files []verify.File) error {
	if err := s.settle(context.Background()); err != nil {
		return err
	}
	var n uint32
	err := s.view(func(txn *badger.Txn) (err error) {
		n, err = getIntent(txn, root)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if int(n) > len(files) {
		return damaged("intent", fmt.Errorf("%d of %d files", n, len(files)))
	}
	for left := int(n); ; {
		counted := left
		batch := files[max(0, left-countBatch):left]
		left -= len(batch)
		// What was begun must be ended: no context of a caller ends it.
		err := s.do(context.Background(), write{urgent: true, entries: 3*len(batch) + 2, bytes: 72 * len(batch), apply: func(t *tx) error {
			if err := t.expectIntent(root, counted); err != nil {
				return err
			}
			for _, f := range batch {
				if err := t.unreference(f.Sum); err != nil {
					return err
				}
			}
			if left > 0 {
				return t.setIntent(root, left)
			}
			return t.deleteListing(root)
		}})
		if errors.Is(err, errMoved) {
			return nil // it was committed meanwhile: there is nothing to give back
		}
		if err != nil || left == 0 {
			return err
		}
	}
}

// errMoved means that an intent is not where its reader saw it.
var errMoved = errors.New("intent has changed")

// expectIntent holds a change of references to what was known when it was made.
func (t *tx) expectIntent(root verify.Digest, n int) error {
	have, err := getIntent(t.txn, root)
	if errors.Is(err, ErrNotFound) || err == nil && int(have) != n {
		return errMoved
	}
	return err
}

// settle returns when all changes that were handed to the writer before are made
// or refused. A caller whose context ended does not wait for its change, which is
// made nonetheless; what is read before that is out of date.
func (s *Store) settle(ctx context.Context) error {
	return s.do(ctx, write{urgent: true, apply: func(*tx) error { return nil }})
}

func (t *tx) unreference(sum verify.Digest) error {
	h, err := t.file(sum)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
		// There is nothing that could be given back: a repair will count anew.
		t.after = append(t.after, func() { t.s.needsRepair("header of file " + sum.Hex() + " is lost") })
		return nil
	}
	if err != nil {
		return err
	}
	less := h
	less.refs--
	if err := t.setFile(h, less); err != nil || less.refs > 0 {
		return err
	}
	if h.flags&flagDamaged != 0 {
		if err := t.unmark(sum); err != nil {
			return err
		}
	}
	return t.deleteFile(h)
}

// deleteListing ends the intent of a root and removes its listing.
func (t *tx) deleteListing(root verify.Digest) error {
	if err := t.del(digestKey(spaceIntent, root)); err != nil {
		return err
	}
	return scan(t.txn, digestKey(spaceListing, root), nil, false, func(item *badger.Item) error {
		return t.del(item.KeyCopy(nil))
	})
}

// recover gives back what was staged or being released when the store was last
// open. A crash in the middle of this leaves a smaller intent.
func (s *Store) recover() error {
	var roots []verify.Digest
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{spaceIntent}, nil, false, func(item *badger.Item) error {
			root, err := parseDigest(item.Key())
			roots = append(roots, root)
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, root := range roots {
		err := s.recoverRoot(root)
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
			s.needsRepair(fmt.Sprintf("listing of %s, of which some was staged, is lost: %v", root.H1(), err))
			continue
		}
		if err != nil {
			return fmt.Errorf("give back what was staged of %s: %w", root.H1(), err)
		}
	}
	return nil
}

func (s *Store) recoverRoot(root verify.Digest) error {
	var files []verify.File
	err := s.view(func(txn *badger.Txn) error {
		n, err := getIntent(txn, root)
		if err != nil || n == 0 {
			return err // with no file counted the listing may not be whole
		}
		l, err := getListing(txn, root)
		files = modzip.Sums(l)
		return err
	})
	if err != nil {
		return err
	}
	return s.release(root, files)
}

// evict drops a zip that is held: it becomes an intent with all files referenced,
// which is then released like any other. ErrBusy: somebody is staging it.
func (s *Store) evict(ctx context.Context, root verify.Digest) error {
	st, files, err := s.claim(root)
	if err != nil {
		return err
	}
	return s.inTurn(ctx, st, func() error {
		defer func() {
			s.drop(st)
			s.forget(root, st)
		}()
		err := s.do(ctx, write{urgent: true, entries: 4, bytes: 256, apply: func(t *tx) error {
			held, err := t.has(digestKey(spaceZip, root))
			if err != nil || !held {
				return err
			}
			v, err := t.get(digestKey(spaceUse, root))
			if err != nil {
				return err
			}
			u, err := decodeUse(v)
			if err != nil {
				return err
			}
			t.acct.Zips--
			t.acct.ZipBytes -= u.size
			if s.isBad(root) {
				if err := t.unmark(root); err != nil {
					return err
				}
			}
			for _, space := range []byte{spaceZip, spaceUse} {
				if err := t.del(digestKey(space, root)); err != nil {
					return err
				}
			}
			return t.setIntent(root, len(files))
		}})
		if err != nil {
			return err
		}
		return s.release(root, files)
	})
}

// claim registers as the only one who has to do with a root.
func (s *Store) claim(root verify.Digest) (*stage, []verify.File, error) {
	var files []verify.File
	err := s.view(func(txn *badger.Txn) error {
		l, err := getListing(txn, root)
		files = modzip.Sums(l)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stages[root] != nil {
		return nil, nil, fmt.Errorf("zip %s: %w", root.H1(), ErrBusy)
	}
	st := &stage{turn: make(chan struct{}, 1), handles: 1}
	st.turn <- struct{}{}
	s.stages[root] = st
	return st, files, nil
}
