package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// Datastore is a go-datastore in a keyspace of its own, named by prefix, which
// must not be empty or hold a zero byte. Writes are synced by Sync. Close does
// nothing: the store's Close does.
func (s *Store) Datastore(prefix string) ds.Batching {
	return &datastore{s: s, prefix: key(spaceData, prefix, "")}
}

type datastore struct {
	s      *Store
	prefix []byte
}

var _ ds.Batching = (*datastore)(nil)

func (d *datastore) key(k ds.Key) []byte {
	return append(bytes.Clone(d.prefix), k.String()...)
}

func (d *datastore) Get(ctx context.Context, k ds.Key) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := d.s.value(d.key(k))
	if errors.Is(err, ErrNotFound) {
		return nil, ds.ErrNotFound
	}
	return b, err
}

func (d *datastore) Has(ctx context.Context, k ds.Key) (bool, error) {
	return ds.GetBackedHas(ctx, d, k)
}

func (d *datastore) GetSize(ctx context.Context, k ds.Key) (int, error) {
	return ds.GetBackedSize(ctx, d, k)
}

func (d *datastore) Put(ctx context.Context, k ds.Key, value []byte) error {
	return d.write(ctx, map[ds.Key][]byte{k: present(value)})
}

func (d *datastore) Delete(ctx context.Context, k ds.Key) error {
	return d.write(ctx, map[ds.Key][]byte{k: nil})
}

// present tells an empty value from a deletion.
func present(value []byte) []byte {
	return append([]byte{}, value...)
}

func (d *datastore) write(ctx context.Context, changes map[ds.Key][]byte) error {
	w := write{entries: len(changes), bytes: 0, apply: func(t *tx) error {
		for k, v := range changes {
			if v == nil {
				if err := t.del(d.key(k)); err != nil {
					return err
				}
				continue
			}
			if err := t.set(d.key(k), v); err != nil {
				return err
			}
		}
		return nil
	}}
	for k, v := range changes {
		full := d.key(k)
		if err := checkPair(full, v); err != nil {
			return fmt.Errorf("datastore: %w", err)
		}
		w.bytes += len(full) + len(v) + 32
	}
	return d.s.do(ctx, w)
}

// Sync makes all writes before it durable, of any prefix.
func (d *datastore) Sync(ctx context.Context, _ ds.Key) error {
	return d.s.do(ctx, write{sync: true, apply: func(*tx) error { return nil }})
}

func (d *datastore) Close() error { return nil }

// Query reads the keys below q.Prefix into memory before it returns, and leaves
// filters and orders to go-datastore.
func (d *datastore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	var entries []query.Entry
	prefix := ds.NewKey(q.Prefix).String()
	if prefix != "/" {
		prefix += "/"
	}
	under := append(bytes.Clone(d.prefix), prefix...)
	err := d.s.view(func(txn *badger.Txn) error {
		return scan(txn, under, nil, !q.KeysOnly, func(item *badger.Item) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			e := query.Entry{Key: strings.TrimPrefix(string(item.Key()), string(d.prefix)), Size: int(item.ValueSize()) - sealSize}
			if !q.KeysOnly {
				if err := viewItem(item, func(v []byte) error { e.Value = bytes.Clone(v); return nil }); err != nil {
					return err
				}
				e.Size = len(e.Value)
			}
			entries = append(entries, e)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	rest := q
	rest.Prefix = "" // has been applied
	return query.NaiveQueryApply(rest, query.ResultsWithEntries(q, entries)), nil
}

// maxBatchChanges bounds what a Batch writes in one transaction.
const maxBatchChanges = 1000

// Batch collects changes; Commit writes them in transactions of a bounded size.
func (d *datastore) Batch(context.Context) (ds.Batch, error) {
	return &dsBatch{d: d, changes: make(map[ds.Key][]byte)}, nil
}

type dsBatch struct {
	d       *datastore
	changes map[ds.Key][]byte
}

func (b *dsBatch) Put(_ context.Context, k ds.Key, value []byte) error {
	b.changes[k] = present(value)
	return nil
}

func (b *dsBatch) Delete(_ context.Context, k ds.Key) error {
	b.changes[k] = nil
	return nil
}

func (b *dsBatch) Commit(ctx context.Context) error {
	part, bytes := make(map[ds.Key][]byte), 0
	flush := func() error {
		err := b.d.write(ctx, part)
		part, bytes = make(map[ds.Key][]byte), 0
		return err
	}
	for k, v := range b.changes {
		part[k] = v
		if bytes += len(v); len(part) >= maxBatchChanges || bytes >= maxBatchBytes/2 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	b.changes = make(map[ds.Key][]byte)
	return flush()
}
