package store

import (
	"context"

	"github.com/meshproxy/meshproxy/verify"
)

// touch remembers that a zip was read now. It is written later, with others, so
// that reading costs no write; a crash forgets the last reads, no more.
func (s *Store) touch(root verify.Digest) {
	now := s.o.Clock().Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads[root] = now
}

// flushReads writes the times of the last reads.
func (s *Store) flushReads(ctx context.Context) {
	s.mu.Lock()
	reads := s.reads
	s.reads = make(map[verify.Digest]int64)
	s.mu.Unlock()
	batch := make(map[verify.Digest]int64)
	for root, at := range reads {
		if batch[root] = at; len(batch) == countBatch {
			s.writeReads(ctx, batch)
			batch = make(map[verify.Digest]int64)
		}
	}
	s.writeReads(ctx, batch)
}

func (s *Store) writeReads(ctx context.Context, batch map[verify.Digest]int64) {
	if len(batch) == 0 {
		return
	}
	err := s.do(ctx, write{urgent: true, entries: len(batch), bytes: 64 * len(batch), apply: func(t *tx) error {
		for root, at := range batch {
			k := digestKey(spaceUse, root)
			v, err := t.get(k)
			if err != nil {
				continue // the zip was dropped meanwhile
			}
			u, err := decodeUse(v)
			if err != nil || u.read >= at {
				continue
			}
			u.read = at
			if err := t.set(k, u.encode()); err != nil {
				return err
			}
		}
		return nil
	}})
	if err != nil {
		s.o.Logger.Warn("times of last reads could not be written", "error", err)
	}
}
