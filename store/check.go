package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// Progress tells how far a long operation is.
type Progress struct {
	Done, Total int64  // items: files, zips or releases; Total is 0 while it is not known
	Bytes       int64  // bytes read or written so far
	Current     string // what is being worked on
}

// Problem is something that the store should not contain, or lacks.
type Problem struct {
	What string // a key or a name
	Err  error
	Sum  verify.Digest // of a scrub: the file's content or the zip's root; zero if it is about neither
	Name verify.Name   // of a scrub: of a record; zero if it is about none
}

func (p Problem) String() string { return p.What + ": " + p.Err.Error() }

// maxProblems bounds a report.
const maxProblems = 1000

// Check reads the whole store, as it is at this moment, and compares everything
// with everything: each reference is counted, each chunk belongs to a file, each
// zip can be put together, each record's signature is good, the accounting is
// what is there. With content, each file is inflated and hashed too. It changes
// nothing. Files in quarantine are no problem. At most 1,000 problems are
// returned.
func (s *Store) Check(ctx context.Context, content bool, progress func(Progress)) ([]Problem, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	snap, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.close()
	c := checker{
		ctx: ctx, snap: snap, content: content, progress: progress,
		refs: make(map[verify.Digest]uint32), streams: make(map[uint64]uint32), listings: make(map[verify.Digest]bool),
	}
	for _, step := range []func() error{c.schema, c.roots, c.files, c.chunks, c.records, c.arrivals, c.accounting} {
		if err := step(); err != nil && !errors.Is(err, errEnough) {
			return c.problems, err
		}
	}
	return c.problems, nil
}

var errEnough = errors.New("too many problems")

type checker struct {
	ctx      context.Context
	snap     *snapshot
	content  bool
	progress func(Progress)
	p        Progress
	acct     Accounting
	problems []Problem
	refs     map[verify.Digest]uint32 // by listings that are held or staged
	streams  map[uint64]uint32        // by number: how many chunks may be there
	listings map[verify.Digest]bool   // that zips or intents need
}

func (c *checker) problem(what string, err error) error {
	if c.problems = append(c.problems, Problem{What: what, Err: err}); len(c.problems) >= maxProblems {
		return errEnough
	}
	return nil
}

// scan visits a keyspace; an error of fn about one key is a problem, not the end.
func (c *checker) scan(space byte, fn func(k []byte, item *badger.Item) error) error {
	if err := c.snap.s.enter(); err != nil {
		return err
	}
	defer c.snap.s.leave()
	return scan(c.snap.txn, []byte{space}, nil, false, func(item *badger.Item) error {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		k := item.KeyCopy(nil)
		if err := fn(k, item); err != nil {
			if c.ctx.Err() != nil {
				return c.ctx.Err()
			}
			return c.problem(describe(k), err)
		}
		return nil
	})
}

func (c *checker) schema() error {
	version, err := readSchema(c.snap.s.db)
	if err != nil || version != schema {
		return c.problem("schema version", fmt.Errorf("%d: %w", version, errors.Join(err, ErrDamaged)))
	}
	return nil
}

// roots visits all zips and intents, and counts their references.
func (c *checker) roots() error {
	err := c.scan(spaceZip, func(k []byte, item *badger.Item) error {
		root, err := parseDigest(k)
		if err != nil {
			return err
		}
		return c.zip(root, item)
	})
	if err != nil {
		return err
	}
	return c.scan(spaceIntent, func(k []byte, _ *badger.Item) error {
		root, err := parseDigest(k)
		if err != nil {
			return err
		}
		n, err := getIntent(c.snap.txn, root)
		c.listings[root] = true
		if err != nil || n == 0 {
			return err
		}
		l, err := getListing(c.snap.txn, root)
		if err != nil {
			return err
		}
		files := modzip.Sums(l)
		if int(n) > len(files) {
			return fmt.Errorf("%d of %d files are referenced: %w", n, len(files), ErrDamaged)
		}
		for _, f := range files[:n] {
			c.refs[f.Sum]++
		}
		return nil
	})
}

func (c *checker) zip(root verify.Digest, item *badger.Item) error {
	c.listings[root] = true
	l, err := getListing(c.snap.txn, root)
	if err != nil {
		return err
	}
	files := modzip.Sums(l)
	for _, f := range files {
		c.refs[f.Sum]++
	}
	v, err := getValue(c.snap.txn, digestKey(spaceUse, root))
	if err != nil {
		return fmt.Errorf("use: %w", err)
	}
	u, err := decodeUse(v)
	if err != nil {
		return err
	}
	c.acct.Zips++
	c.acct.ZipBytes += u.size
	lay, err := c.layout(files, item)
	if err != nil || lay == nil {
		return err
	}
	index, err := newZipIndex(l, files, *lay)
	if err == nil && index.skeleton.Size() != u.size {
		err = fmt.Errorf("zip has %d bytes, accounted are %d: %w", index.skeleton.Size(), u.size, ErrDamaged)
	}
	return err
}

// layout checks a layout against the files; it is nil when the layout is out of
// date, or a file in quarantine, and says nothing then.
func (c *checker) layout(files []verify.File, item *badger.Item) (*layout, error) {
	var lay layout
	err := viewItem(item, func(v []byte) (err error) {
		lay, err = decodeLayout(files, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	epoch, err := getEpoch(c.snap.txn)
	if err != nil || lay.epoch != epoch {
		return nil, err
	}
	for i, f := range files {
		h, err := getFile(c.snap.txn, f.Sum)
		switch {
		case err != nil:
			return nil, fmt.Errorf("file %.300q: %w", f.Name, err)
		case h.flags == 0:
			return nil, fmt.Errorf("file %.300q: never came: %w", f.Name, ErrDamaged)
		case h.stream() != lay.files[i]:
			return nil, fmt.Errorf("file %.300q: layout has another stream: %w", f.Name, ErrDamaged)
		}
	}
	return &lay, nil
}

func (c *checker) files() error {
	c.p.Total = c.snap.s.Accounting().Files
	return c.scan(spaceFile, func(k []byte, item *badger.Item) error {
		sum, err := parseDigest(k)
		if err != nil {
			return err
		}
		var h fileHead
		if err := viewItem(item, func(v []byte) (err error) { h, err = decodeFileHead(sum, v); return err }); err != nil {
			return err
		}
		if _, ok := c.streams[h.num]; ok && h.num != 0 {
			return fmt.Errorf("stream %d is that of two files: %w", h.num, ErrDamaged)
		}
		c.streams[h.num] = math.MaxUint32 // a stream that is not whole may be on its way
		if h.present() {
			c.streams[h.num] = chunks(h.raw.CompressedSize)
		}
		c.acct.file(h, 1)
		if h.refs != c.refs[sum] {
			return fmt.Errorf("%d references, listings have %d: %w", h.refs, c.refs[sum], ErrDamaged)
		}
		delete(c.refs, sum)
		if marked, err := hasKey(c.snap.txn, digestKey(spaceDamage, sum)); err != nil || marked != (h.flags&flagDamaged != 0) {
			return fmt.Errorf("in quarantine %v, flags %#x: %w", marked, h.flags, errors.Join(err, ErrDamaged))
		}
		return c.file(h)
	})
}

// file reads the chunks of a file.
func (c *checker) file(h fileHead) error {
	if !h.present() {
		return nil
	}
	c.p.Done++
	c.p.Bytes += h.raw.CompressedSize
	c.p.Current = h.raw.Sum.Hex()
	c.progress(c.p)
	r := newChunkReader(c.snap.txn, h.stream())
	if c.content {
		return h.raw.Verify(c.ctx, r)
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// chunks finds chunks and listings that belong to nothing.
func (c *checker) chunks() error {
	for sum, n := range c.refs {
		if err := c.problem("file "+sum.Hex(), fmt.Errorf("missing, listings have %d references: %w", n, ErrDamaged)); err != nil {
			return err
		}
	}
	err := c.scan(spaceChunk, func(k []byte, _ *badger.Item) error {
		num, i, err := parseStreamKey(k)
		if err != nil {
			return err
		}
		if n, ok := c.streams[num]; !ok || i >= n {
			return fmt.Errorf("chunk %d belongs to no file: %w", i, ErrDamaged)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.scan(spaceListing, func(k []byte, _ *badger.Item) error {
		root, _, err := parseChunkKey(k)
		if err == nil && !c.listings[root] {
			err = fmt.Errorf("listing belongs to no zip: %w", ErrDamaged)
		}
		return err
	})
}

func (c *checker) records() error {
	var last module.Version
	err := c.scan(spaceRecord, func(k []byte, _ *badger.Item) error {
		n, err := parseRecordKey(k)
		if err != nil {
			return err
		}
		r, err := getRecord(c.snap.txn, n)
		if err != nil {
			return err
		}
		c.acct.record(n.Kind, r.Envelope, 1)
		if n.Module != last {
			c.acct.Releases++
			last = n.Module
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.scan(spaceConflict, func([]byte, *badger.Item) error {
		c.acct.Conflicts++
		return nil
	})
}

func (c *checker) arrivals() error {
	seen := make(map[module.Version]bool)
	return c.scan(spaceArrival, func(_ []byte, item *badger.Item) error {
		a, err := decodeArrival(item)
		if err != nil {
			return err
		}
		if seen[a.Module] {
			return fmt.Errorf("%s arrived twice: %w", a.Module, ErrDamaged)
		}
		seen[a.Module] = true
		found, err := hasRelease(c.snap.txn, a.Module)
		if err == nil && !found {
			err = fmt.Errorf("%s arrived and has no record: %w", a.Module, ErrDamaged)
		}
		return err
	})
}

func (c *checker) accounting() error {
	var have Accounting
	v, err := getValue(c.snap.txn, []byte{spaceAccount})
	if err == nil {
		err = decMode.Unmarshal(v, &have)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return c.problem("accounting", err)
	}
	if have != c.acct {
		return c.problem("accounting", fmt.Errorf("%+v, counted are %+v: %w", have, c.acct, ErrDamaged))
	}
	return nil
}

func parseStreamKey(k []byte) (num uint64, i uint32, err error) {
	if len(k) != 1+8+4 {
		return 0, 0, damaged("key", fmt.Errorf("%q is no chunk", k))
	}
	return binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint32(k[9:]), nil
}

func parseChunkKey(k []byte) (d verify.Digest, i uint32, err error) {
	if len(k) != 1+len(d)+4 {
		return d, 0, damaged("key", fmt.Errorf("%q is no chunk", k))
	}
	copy(d[:], k[1:])
	return d, binary.BigEndian.Uint32(k[1+len(d):]), nil
}
