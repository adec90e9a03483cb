package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	// minReclaim is how much must have been dropped, in bytes, for GC to give space
	// back unasked: it writes a memtable's worth or more itself.
	minReclaim = 4 * memTableSize
	// discardRatio is the part of a value-log file that must be garbage before it
	// is rewritten: less writes more, more keeps more garbage.
	discardRatio = 0.3
)

// reclaim gives the space of deleted values back. Badger learns of garbage in its
// value log when a compaction meets the deletion, so the memtable is pushed out
// and the levels are compacted first. Reads and writes go on.
func (s *Store) reclaim(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	select { // two at a time would be in each other's way
	case s.reclaiming <- struct{}{}:
		defer func() { <-s.reclaiming }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return ErrClosed
	}
	// Badger compacts level 0 into the next only when there is a next, or when
	// level 0 has so many tables.
	for range s.db.Opts().NumLevelZeroTables + 1 {
		if err := s.pushMemtable(ctx); err != nil {
			return err
		}
		if s.hasLevels() {
			break
		}
	}
	if err := s.db.Flatten(1); err != nil {
		// It also says so when a compaction of its own holds the tables. Nothing is
		// lost: less garbage is known now, and the rest is found the next time.
		s.o.Logger.Warn("tables could not all be compacted, less space comes back", "error", err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.urgentRoom(int(s.db.Opts().ValueLogFileSize)); err != nil {
			return err // a rewrite needs room for what it keeps
		}
		switch err := s.db.RunValueLogGC(discardRatio); {
		case errors.Is(err, badger.ErrNoRewrite), errors.Is(err, badger.ErrRejected):
			return nil
		case err != nil:
			return fmt.Errorf("value log: %w", err)
		}
	}
}

// hasLevels reports whether there is a table below level 0.
func (s *Store) hasLevels() bool {
	for _, t := range s.db.Tables() {
		if t.Level > 0 {
			return true
		}
	}
	return false
}

// pushMemtable makes Badger flush what it holds in memory, by writing as much as
// a memtable holds: there is no call for it that lets others go on.
func (s *Store) pushMemtable(ctx context.Context) error {
	const value, entry = 512, 512 + 64 // below the threshold, or it would go to the value log
	size := s.db.Opts().MemTableSize
	batch := int(min(maxBatchBytes, size/10)) / entry
	filler := make([]byte, value) // without room for a checksum, so that each key gets its own copy
	for left := size; left > 0; left -= int64(batch * value) {
		err := s.fillers(ctx, batch, entry, func(t *tx, k []byte) error { return t.set(k, filler) })
		if err != nil {
			return err
		}
	}
	if err := s.fillers(ctx, batch, entry, func(t *tx, k []byte) error { return t.del(k) }); err != nil {
		return err
	}
	return s.flushed(ctx)
}

func (s *Store) fillers(ctx context.Context, n, size int, fn func(t *tx, k []byte) error) error {
	return s.do(ctx, write{urgent: true, entries: n, bytes: n * size, apply: func(t *tx) error {
		for i := range n {
			if err := fn(t, binary.BigEndian.AppendUint32([]byte{spaceFiller}, uint32(i))); err != nil {
				return err
			}
		}
		return nil
	}})
}

// flushed waits until Badger has written its full memtables to tables, which it
// does in the background: their logs go then. A reader may keep one for long.
func (s *Store) flushed(ctx context.Context) error {
	const patience, step = 10 * time.Second, 5 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for range patience / step {
		logs, err := filepath.Glob(filepath.Join(s.data, "*.mem"))
		if err != nil || len(logs) <= 1 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// slack is the space on disk beyond that of the files that are held: most of it is
// garbage, or overhead that no collection gives back.
func (s *Store) slack() int64 { return s.DiskUsage() - s.Accounting().FileBytes }

// DiskUsage is the space that the store's files take on disk, in bytes.
func (s *Store) DiskUsage() int64 { return diskUsage(s.data) + diskUsage(s.spool()) }

func diskUsage(dir string) int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	var total int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else it went meanwhile
			total += allocated(info)
		}
	}
	return total
}
