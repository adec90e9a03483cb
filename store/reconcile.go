package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// ensureSchema writes the schema version, which may have been lost.
func ensureSchema(batch *badger.WriteBatch) error {
	k, v := schemaPair(schema)
	return batch.Set(k, v)
}

// reconcile opens a salvaged database and makes everything in it fit together.
// What listings say is taken for true, since they are checked by their digests:
// references, quarantine, index and accounting follow from them.
func reconcile(ctx context.Context, s *Store, report *RepairReport) (err error) {
	if err := s.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r := reconciler{ctx: ctx, s: s, report: report, refs: make(map[verify.Digest]uint32), counts: make(map[uint64]uint32)}
	for _, step := range []func() error{r.zips, r.files, r.lost, r.streams, r.listings, r.damage, r.records, r.arrivals, r.sizes, r.finish} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

type reconciler struct {
	ctx    context.Context
	s      *Store
	report *RepairReport
	refs   map[verify.Digest]uint32 // references that listings have, and no header has yet
	counts map[uint64]uint32        // chunks of each stream that belongs to a file
	number uint64
	acct   Accounting
}

// change is a key to be set, or deleted when value is nil.
type change struct{ k, value []byte }

// each visits a keyspace and makes the changes that fn asks for, after it: keys
// are visited as they were.
func (r *reconciler) each(space byte, fn func(txn *badger.Txn, k []byte, item *badger.Item) ([]change, error)) error {
	var changes []change
	err := r.s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{space}, nil, false, func(item *badger.Item) error {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			c, err := fn(txn, item.KeyCopy(nil), item)
			changes = append(changes, c...)
			return err
		})
	})
	if err != nil {
		return err
	}
	return r.write(changes)
}

func (r *reconciler) write(changes []change) error {
	const batch = 1000
	for len(changes) > 0 {
		part := changes[:min(batch, len(changes))]
		changes = changes[len(part):]
		err := r.s.do(r.ctx, write{entries: len(part), bytes: 256 * len(part), apply: func(t *tx) error {
			for _, c := range part {
				err := t.del(c.k)
				if c.value != nil {
					err = t.set(c.k, c.value)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}})
		if err != nil {
			return err
		}
		r.report.Fixed += int64(len(part))
	}
	return nil
}

// zips counts the references of all listings, and lets go of zips without one.
func (r *reconciler) zips() error {
	return r.each(spaceZip, func(txn *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		root, err := parseDigest(k)
		if err != nil {
			return []change{{k: k}}, nil
		}
		files, err := getSums(txn, root)
		if err != nil {
			r.report.LostZips = append(r.report.LostZips, root)
			return []change{{k: k}, {k: digestKey(spaceUse, root)}}, nil
		}
		for _, f := range files {
			r.refs[f.Sum]++
		}
		return nil, nil
	})
}

// files sets the references of each file, and finds streams that are not whole.
func (r *reconciler) files() error {
	return r.each(spaceFile, func(txn *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		sum, err := parseDigest(k)
		if err != nil {
			return []change{{k: k}}, nil
		}
		h, err := getFile(txn, sum)
		refs := r.refs[sum]
		if err != nil || refs == 0 {
			return []change{{k: k}}, nil
		}
		delete(r.refs, sum)
		good := h
		good.refs = refs
		if !h.present() || !whole(txn, h) {
			good.flags = flagDamaged
		}
		r.acct.file(good, 1)
		r.counts[h.num] = chunks(h.raw.CompressedSize)
		changes := r.mark(good)
		if good != h {
			changes = append(changes, change{k, good.encode()})
		}
		return changes, nil
	})
}

// whole reports whether all chunks of a stream can be read.
func whole(txn *badger.Txn, h fileHead) bool {
	var buf []byte
	var err error
	for i := range chunks(h.raw.CompressedSize) {
		if buf, err = readChunk(txn, h.stream(), i, buf); err != nil {
			return false
		}
	}
	return true
}

// mark puts a file that is not whole into quarantine.
func (r *reconciler) mark(h fileHead) []change {
	if h.flags&flagDamaged == 0 {
		return nil
	}
	r.report.DamagedFiles++
	value := stamped(r.s.o.Clock().Unix(), []byte("found by a repair"))
	return []change{{digestKey(spaceDamage, h.raw.Sum), value}}
}

// lost makes headers for files that listings name and that have none.
func (r *reconciler) lost() error {
	var changes []change
	for sum, refs := range r.refs {
		h := fileHead{flags: flagDamaged, refs: refs, raw: RawFile{Sum: sum}}
		r.acct.file(h, 1)
		changes = append(changes, r.mark(h)...)
		changes = append(changes, change{digestKey(spaceFile, sum), h.encode()})
	}
	return r.write(changes)
}

// streams deletes chunks that belong to no file.
func (r *reconciler) streams() error {
	return r.each(spaceChunk, func(_ *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		num, i, err := parseStreamKey(k)
		r.number = max(r.number, num)
		if n, ok := r.counts[num]; err != nil || !ok || i >= n || num == 0 {
			return []change{{k: k}}, nil
		}
		return nil, nil
	})
}

// listings deletes those that no zip has; intents were given back on opening.
func (r *reconciler) listings() error {
	err := r.each(spaceListing, func(txn *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		root, _, err := parseChunkKey(k)
		if held, herr := hasKey(txn, digestKey(spaceZip, root)); err != nil || herr != nil || !held {
			return []change{{k: k}}, nil
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	return r.each(spaceIntent, func(_ *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		return []change{{k: k}}, nil
	})
}

// damage takes out of quarantine what is whole, or gone.
func (r *reconciler) damage() error {
	return r.each(spaceDamage, func(txn *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		sum, err := parseDigest(k)
		if err == nil {
			if h, err := getFile(txn, sum); err == nil && h.flags&flagDamaged != 0 {
				return nil, nil
			}
		}
		return []change{{k: k}}, nil
	})
}

// records counts them, and deletes those that are damaged.
func (r *reconciler) records() error {
	var last module.Version
	err := r.each(spaceRecord, func(txn *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		n, err := parseRecordKey(k)
		if err == nil {
			var rec *verify.Signed
			if rec, err = getRecord(txn, n); err == nil {
				r.acct.record(n.Kind, rec.Envelope, 1)
				if n.Module != last {
					last = n.Module
					r.acct.Releases++
				}
				return nil, nil
			}
		}
		r.report.LostRecords = append(r.report.LostRecords, fmt.Sprintf("%.300q", k[1:]))
		return []change{{k: k}}, nil
	})
	if err != nil {
		return err
	}
	return r.each(spaceConflict, func(*badger.Txn, []byte, *badger.Item) ([]change, error) {
		r.acct.Conflicts++
		return nil, nil
	})
}

// arrivals makes the index say each release once.
func (r *reconciler) arrivals() error {
	seen := make(map[module.Version]bool)
	err := r.each(spaceArrival, func(txn *badger.Txn, k []byte, item *badger.Item) ([]change, error) {
		a, err := decodeArrival(item)
		known, rerr := hasRelease(txn, a.Module)
		if err != nil || rerr != nil || !known || seen[a.Module] {
			return []change{{k: k}}, nil
		}
		seen[a.Module] = true
		return nil, nil
	})
	if err != nil {
		return err
	}
	at := uint64(r.s.o.Clock().UnixNano())
	var changes []change
	err = r.s.Releases(r.ctx, func(rel Release) error {
		if !seen[rel.Module] {
			at++
			changes = append(changes, change{timeKey(spaceArrival, at), key(0, rel.Module.Path, rel.Module.Version)[1:]})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.write(changes)
}

// sizes counts the zips, and makes the notes of their use that are missing.
func (r *reconciler) sizes() error {
	return r.each(spaceZip, func(txn *badger.Txn, k []byte, _ *badger.Item) ([]change, error) {
		root, err := parseDigest(k)
		if err != nil {
			return nil, err
		}
		r.acct.Zips++
		useKey := digestKey(spaceUse, root)
		v, err := getValue(txn, useKey)
		if err == nil {
			if u, err := decodeUse(v); err == nil {
				r.acct.ZipBytes += u.size
				return nil, nil
			}
		}
		now := r.s.o.Clock().Unix()
		u := use{committed: now, read: now, size: zipSize(txn, root)}
		r.acct.ZipBytes += u.size
		return []change{{useKey, u.encode()}}, nil
	})
}

// zipSize is the size of a zip, or 0 while files of it are in quarantine: it is
// known when they are healed.
func zipSize(txn *badger.Txn, root verify.Digest) int64 {
	l, err := getListing(txn, root)
	if err != nil {
		return 0
	}
	files := modzip.Sums(l)
	lay, err := makeLayout(txn, files, getFile)
	if err != nil {
		return 0
	}
	index, err := newZipIndex(l, files, lay)
	if err != nil {
		return 0
	}
	return index.skeleton.Size()
}

// finish writes the accounting, and a new epoch, since any layout may be an old
// one.
func (r *reconciler) finish() error {
	return r.s.do(r.ctx, write{entries: 4, bytes: 1 << 10, sync: true, apply: func(t *tx) error {
		t.acct = r.acct
		t.number = max(t.number, r.number)
		t.epoch = nextEpoch(t.epoch, t.s.o.Clock())
		return t.set([]byte{spaceEpoch}, binary.BigEndian.AppendUint64(nil, t.epoch))
	}})
}
