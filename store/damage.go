package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/verify"
)

// suspect is told that reading a file found damage. It looks again, since the
// value log may have moved under an old snapshot, and puts the file into
// quarantine if the damage is there. It returns the error for the reader.
func (s *Store) suspect(sum verify.Digest, found error) error {
	if !errors.Is(found, ErrDamaged) {
		return found
	}
	h, err := s.head(sum)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
		s.needsRepair("header of file " + sum.Hex() + " is lost")
	}
	if err != nil || !h.present() {
		return found
	}
	err = s.view(func(txn *badger.Txn) error {
		var buf []byte
		for i := range chunks(h.raw.CompressedSize) {
			if buf, err = readChunk(txn, h.stream(), i, buf); err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, ErrDamaged) {
		return found
	}
	if err := s.quarantine(sum, found.Error()); err != nil {
		return fmt.Errorf("%w (and it could not be put into quarantine: %w)", found, err)
	}
	return found
}

// quarantine marks a held file as damaged: no zip that needs it is served until
// PutRaw brings it again.
func (s *Store) quarantine(sum verify.Digest, reason string) error {
	const maxReason = 500
	reason = reason[:min(len(reason), maxReason)]
	now := s.o.Clock().Unix()
	// The reader's context does not matter: the damage is a fact.
	return s.do(context.Background(), write{urgent: true, entries: 3, bytes: 1 << 10, sync: true, apply: func(t *tx) error {
		h, err := t.file(sum)
		if err != nil || !h.present() {
			return err
		}
		bad := h
		bad.flags = flagDamaged
		if err := t.setFile(h, bad); err != nil {
			return err
		}
		t.after = append(t.after, func() { s.markBad(sum, reason) })
		return t.set(digestKey(spaceDamage, sum), stamped(now, []byte(reason)))
	}})
}

func (s *Store) markBad(sum verify.Digest, reason string) {
	s.o.Logger.Error("file is damaged and in quarantine", "sha256", sum.Hex(), "reason", reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad[sum] = struct{}{}
	s.heal = append(s.heal, sum)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// quarantineZip marks a zip whose listing is damaged. Its files may be good: to
// stage the listing again is all that is needed.
func (s *Store) quarantineZip(root verify.Digest, reason string) error {
	const maxReason = 500
	reason = reason[:min(len(reason), maxReason)]
	now := s.o.Clock().Unix()
	return s.do(context.Background(), write{urgent: true, entries: 1, bytes: 1 << 10, sync: true, apply: func(t *tx) error {
		held, err := t.has(digestKey(spaceZip, root))
		if err != nil || !held {
			return err
		}
		t.after = append(t.after, func() { s.markBad(root, reason) })
		return t.set(digestKey(spaceDamage, root), stamped(now, []byte(reason)))
	}})
}

// suspectZip is told of an error in reading a zip's listing.
func (s *Store) suspectZip(root verify.Digest, found error) error {
	if !errors.Is(found, ErrDamaged) || s.isBad(root) {
		return found
	}
	err := s.view(func(txn *badger.Txn) error {
		_, err := getListing(txn, root)
		return err
	})
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) {
		return found
	}
	return errors.Join(found, s.quarantineZip(root, found.Error()))
}

func (s *Store) isBad(d verify.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.bad[d]
	return ok
}

// healed takes a file out of quarantine, whose header was h and whose stream will
// be f. When the new stream is another encoding of the same content, the layouts
// that name the old one are out of date: a new epoch says so.
func (t *tx) healed(h fileHead, f RawFile) error {
	if h.raw != f {
		t.epoch = nextEpoch(t.epoch, t.s.o.Clock())
		if err := t.set([]byte{spaceEpoch}, binary.BigEndian.AppendUint64(nil, t.epoch)); err != nil {
			return err
		}
		if err := t.deleteChunks(h.num, chunks(f.CompressedSize)); err != nil {
			return err
		}
	}
	return t.unmark(f.Sum)
}

// unmark forgets the damage of a file that is whole again, or gone.
func (t *tx) unmark(sum verify.Digest) error {
	t.after = append(t.after, func() { t.s.unmarkBad(sum) })
	return t.del(digestKey(spaceDamage, sum))
}

func (s *Store) unmarkBad(sum verify.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bad, sum)
}

// anyBad reports whether one of the files is in quarantine.
func (s *Store) anyBad(files []verify.File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.bad) == 0 {
		return false
	}
	for _, f := range files {
		if _, ok := s.bad[f.Sum]; ok {
			return true
		}
	}
	return false
}

// Damage is a file in quarantine, or a zip whose listing is.
type Damage struct {
	Sum    verify.Digest // of the file's content, or the root of the zip
	Found  time.Time
	Reason string
}

// Damaged lists the files in quarantine.
func (s *Store) Damaged() ([]Damage, error) {
	var list []Damage
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{spaceDamage}, nil, true, func(item *badger.Item) error {
			sum, err := parseDigest(item.Key())
			if err != nil {
				return err
			}
			return viewItem(item, func(v []byte) error {
				at, reason, err := decodeStamped(v)
				list = append(list, Damage{sum, time.Unix(at, 0).UTC(), string(reason)})
				return err
			})
		})
	})
	return list, err
}

// quarantined reports whether any file is in quarantine.
func (s *Store) quarantined() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bad) > 0
}
