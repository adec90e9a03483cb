package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/verify"
)

// MaxValue is the largest value that SetMutable, SetMeta, SumDB and Datastore
// keep, in bytes.
const MaxValue = 1 << 20

// maxAhead is how far ahead of the clock a time may be that was kept: clocks are set
// back a little, and those of two offices differ.
const maxAhead = 10 * time.Minute

// Mutable returns an answer that may change (a list, a latest, a branch) and when
// it was true; ErrNotFound when none is known. The time is zero if it is not known,
// because the clock was far ahead when the answer was kept: such an answer would be
// the newest until the clock gets there.
func (s *Store) Mutable(name string) (value []byte, at time.Time, err error) {
	b, err := s.value(key(spaceMutable, name))
	if err != nil {
		return nil, at, fmt.Errorf("answer %.200q: %w", name, err)
	}
	t, value, err := decodeStamped(b)
	if err == nil && isAhead(t) {
		return value, time.Time{}, nil
	}
	return value, time.Unix(0, t).UTC(), err
}

func isAhead(nanos int64) bool { return nanos > time.Now().Add(maxAhead).UnixNano() }

// SetMutable keeps an answer and when it was true. An older answer does not
// replace a newer one, unless that is from a time that is yet to come. It is not synced: a crash may bring the one before back.
func (s *Store) SetMutable(name string, value []byte, at time.Time) error {
	k := key(spaceMutable, name)
	if err := checkPair(k, value); err != nil {
		return err
	}
	return s.do(context.Background(), write{entries: 1, bytes: len(k) + len(value) + 32, apply: func(t *tx) error {
		old, err := t.get(k)
		if err == nil {
			if when, _, err := decodeStamped(old); err == nil && when > at.UnixNano() && !isAhead(when) {
				return nil
			}
		}
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDamaged) {
			return err
		}
		return t.set(k, stamped(at.UnixNano(), value))
	}})
}

// Meta returns what another package keeps under name; ErrNotFound when it keeps
// nothing.
func (s *Store) Meta(name string) ([]byte, error) {
	b, err := s.value(key(spaceMeta, name))
	if err != nil {
		return nil, fmt.Errorf("meta %.200q: %w", name, err)
	}
	return b, nil
}

// SetMeta keeps value under name; it is on disk when SetMeta returns. A nil value
// deletes.
func (s *Store) SetMeta(name string, value []byte) error {
	return s.setValue(key(spaceMeta, name), value, true)
}

// Metas calls fn with each name that begins with prefix, sorted, and its value.
func (s *Store) Metas(prefix string, fn func(name string, value []byte) error) error {
	return s.view(func(txn *badger.Txn) error {
		return scan(txn, key(spaceMeta, prefix), nil, true, func(item *badger.Item) error {
			return viewItem(item, func(v []byte) error {
				return fn(string(item.Key()[1:]), bytes.Clone(v))
			})
		})
	})
}

func (s *Store) value(k []byte) (b []byte, err error) {
	err = s.view(func(txn *badger.Txn) error {
		b, err = getValue(txn, k)
		return err
	})
	return b, err
}

// setValue writes or, when value is nil, deletes.
func (s *Store) setValue(k, value []byte, sync bool) error {
	if err := checkPair(k, value); err != nil {
		return err
	}
	value = bytes.Clone(value)
	return s.do(context.Background(), write{entries: 1, bytes: len(k) + len(value) + 32, sync: sync, apply: func(t *tx) error {
		if value == nil {
			return t.del(k)
		}
		return t.set(k, value)
	}})
}

func checkPair(k, value []byte) error {
	if len(k) > maxKey {
		return fmt.Errorf("key of %d bytes: at most %d allowed", len(k), maxKey)
	}
	if len(value) > MaxValue {
		return fmt.Errorf("value of %d bytes for %.200q: at most %d allowed", len(value), k[1:], MaxValue)
	}
	return nil
}

// SumDB is the cache of a verify.Database: immutable tiles, proofs, and the tree
// head. What is damaged is ErrDamaged and not fs.ErrNotExist: without its tree head
// a database would start afresh, and believe a rolled back one.
func (s *Store) SumDB() verify.DBCache { return sumDB{s} }

type sumDB struct{ s *Store }

// Get returns a copy of what Put kept, or fs.ErrNotExist.
func (c sumDB) Get(name string) ([]byte, error) {
	b, err := c.s.value(key(spaceSumDB, name))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, fmt.Errorf("checksum database cache %.200q: %w", name, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("checksum database cache %.200q: %w", name, err)
	}
	return b, nil
}

// Put keeps value. The tree head and evidence are on disk when Put returns, and so
// is all that was put before it. Tiles and proofs alone are not synced: what a crash
// takes of them is fetched again.
func (c sumDB) Put(name string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	durable := strings.HasSuffix(name, "/latest") || strings.HasSuffix(name, "/forks")
	return c.s.setValue(key(spaceSumDB, name), value, durable)
}
