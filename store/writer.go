package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/verify"
)

// Limits of one Badger transaction. Badger's own follow from the memtable size;
// these stay below them and keep other writers' waits short.
const (
	maxBatchOps     = 256
	maxBatchEntries = 8 << 10
	maxBatchBytes   = 2 << 20
)

// write is a change to the database. All changes go through one goroutine, so
// that a change reads what it writes without conflicts, and several share a
// transaction and a sync.
type write struct {
	// apply makes the change; it may run more than once, and only the last run
	// counts. An error undoes it and is returned to the caller.
	apply   func(*tx) error
	urgent  bool // must be possible on a full disk
	entries int  // most keys that apply sets or deletes
	bytes   int  // most bytes that apply sets
	sync    bool // acknowledge only when the change is synced to disk
	done    chan error
}

// tx is a transaction of the writer.
type tx struct {
	s       *Store
	txn     *badger.Txn
	acct    Accounting
	epoch   uint64
	number  uint64                     // of the newest stream
	arrival uint64                     // the latest time in the index of arrivals
	after   []func()                   // run once the transaction is committed
	logged  int                        // bytes that went to the value log
	last    []byte                     // key of the last value that did
	heads   map[verify.Digest]fileHead // headers that change; without references they are gone, or unknown
}

func (t *tx) get(k []byte) ([]byte, error) { return getValue(t.txn, k) }

func (t *tx) has(k []byte) (bool, error) { return hasKey(t.txn, k) }

// set takes over k and value.
func (t *tx) set(k, value []byte) error {
	if len(value) >= valueThreshold {
		t.logged, t.last = t.logged+len(value), k
	}
	t.unknow(k)
	return t.txn.Set(k, seal(k, value))
}

// unknow notes that the value of k changes, if it is a file's header.
func (t *tx) unknow(k []byte) {
	if k[0] != spaceFile {
		return
	}
	if sum, err := parseDigest(k); err == nil {
		if t.heads == nil {
			t.heads = make(map[verify.Digest]fileHead)
		}
		t.heads[sum] = fileHead{}
	}
}

// del deletes a key. A zip that is not held any more leaves memory with it.
func (t *tx) del(k []byte) error {
	if k[0] == spaceZip {
		if root, err := parseDigest(k); err == nil {
			t.after = append(t.after, func() { t.s.forgetZip(root) })
		}
	}
	t.unknow(k)
	return t.txn.Delete(k)
}

func (t *tx) file(sum verify.Digest) (fileHead, error) {
	if h, ok := t.heads[sum]; ok && h.refs > 0 {
		return h, nil
	} else if ok {
		return getFile(t.txn, sum)
	}
	return t.s.recentFile(t.txn, sum)
}

// setFile replaces a file's header and keeps the accounting. A header without
// references is deleted; its chunks are the caller's.
func (t *tx) setFile(old, h fileHead) error {
	t.acct.file(old, -1)
	t.acct.file(h, 1)
	k := digestKey(spaceFile, h.raw.Sum)
	if h.refs == 0 {
		return t.del(k)
	}
	if err := t.set(k, h.encode()); err != nil {
		return err
	}
	t.heads[h.raw.Sum] = h
	return nil
}

// do hands w to the writer and waits for its end. When ctx ends first the change
// may still take effect.
func (s *Store) do(ctx context.Context, w write) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	w.done = make(chan error, 1)
	select {
	case s.writes <- &w:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writer is the goroutine that makes all changes. It ends when s.writes is closed.
func (s *Store) writer() {
	defer close(s.syncs)
	var held *write
	for {
		first, ok := held, true
		if held = nil; first == nil {
			if first, ok = <-s.writes; !ok {
				return
			}
		}
		batch := []*write{first}
		batch, held = s.gather(batch)
		s.applyAll(batch)
	}
}

// gather adds to batch what waits already and fits; what does not fit is held.
func (s *Store) gather(batch []*write) (_ []*write, held *write) {
	entries, bytes := batch[0].entries, batch[0].bytes
	for len(batch) < maxBatchOps {
		select {
		case w, ok := <-s.writes:
			if !ok {
				return batch, nil
			}
			entries, bytes = entries+w.entries, bytes+w.bytes
			if entries > maxBatchEntries || bytes > maxBatchBytes {
				return batch, w
			}
			batch = append(batch, w)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

// applyAll applies a batch in one transaction. When one change fails, none was
// made, and each is tried alone, so that an error reaches only its own caller.
func (s *Store) applyAll(batch []*write) {
	err := s.apply(batch)
	if err != nil && len(batch) > 1 && !errors.Is(err, ErrFailed) {
		for _, w := range batch {
			s.applyAll([]*write{w})
		}
		return
	}
	for _, w := range batch {
		if err == nil && w.sync {
			s.syncs <- w
			continue
		}
		w.done <- err
	}
}

func (s *Store) apply(batch []*write) error {
	if err := s.failed.get(); err != nil {
		return err
	}
	bytes, room := 0, s.urgentRoom
	for _, w := range batch {
		bytes += w.bytes
		if !w.urgent {
			room = s.room
		}
	}
	if err := room(bytes); err != nil {
		return err
	}
	t := &tx{s: s, txn: s.db.NewTransaction(true), acct: s.acct, epoch: s.epoch.Load(), number: s.number, arrival: s.arrival}
	defer t.txn.Discard()
	for _, w := range batch {
		if err := w.apply(t); err != nil {
			return err
		}
	}
	if t.acct != s.acct {
		if err := t.setAccounting(); err != nil {
			return err
		}
	}
	if t.number != s.number {
		if err := t.set([]byte{spaceNumber}, binary.BigEndian.AppendUint64(nil, t.number)); err != nil {
			return err
		}
	}
	s.heads.forget(t.heads)
	if err := t.txn.Commit(); err != nil {
		// Badger may have lost its memtable or log: nothing after this is safe, not
		// even reading.
		s.broken.Store(true)
		return s.failed.set(fmt.Errorf("write: %w: %w", err, ErrFailed))
	}
	s.heads.remember(t.heads)
	s.acct = t.acct
	s.arrival, s.number = t.arrival, t.number
	s.epoch.Store(t.epoch)
	s.published.Store(&t.acct)
	if t.last != nil {
		mapped.wrote(s.db, t.last, t.logged)
	}
	for _, f := range t.after {
		f()
	}
	return nil
}

func (t *tx) setAccounting() error {
	b, err := encMode.Marshal(t.acct)
	if err != nil {
		return fmt.Errorf("accounting: %w", err)
	}
	return t.set([]byte{spaceAccount}, b)
}

// syncer acknowledges changes once they are on disk: all that came while a sync
// was under way share the next one.
func (s *Store) syncer() {
	defer close(s.idle)
	for w := range s.syncs {
		batch := []*write{w}
		for more := true; more; {
			select {
			case w, ok := <-s.syncs:
				if more = ok; ok {
					batch = append(batch, w)
				}
			default:
				more = false
			}
		}
		err := s.sync()
		if err != nil {
			// After a failed sync the kernel may have dropped the pages.
			err = s.failed.set(fmt.Errorf("sync: %w: %w", err, ErrFailed))
		}
		s.syncCount.Add(1)
		for _, w := range batch {
			w.done <- err
		}
	}
}

// failure is the first error after which the store must not write.
type failure struct {
	p  atomic.Pointer[error]
	ch chan struct{} // closed once there is one
}

func (f *failure) get() error {
	if p := f.p.Load(); p != nil {
		return *p
	}
	return nil
}

func (f *failure) set(err error) error {
	if f.p.CompareAndSwap(nil, &err) {
		close(f.ch)
	}
	return *f.p.Load()
}
