package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// Commit admits a record and, when zip is not nil, the zip that it speaks of, in
// one transaction that is on disk when Commit returns. It judges neither signer
// nor truth of the record: that is done before.
//
// A record of another digest than the one known for its name is a *ConflictError:
// it is kept as evidence, and nothing else changes. A record of the same digest
// changes nothing but may bring the zip along. A zip of which files are missing is
// ErrIncomplete. Close of a committed zip gives nothing back.
func (s *Store) Commit(ctx context.Context, signed *verify.Signed, zip *Staged) error {
	return s.CommitSeen(ctx, signed, zip, nil)
}

// CommitSeen is Commit that calls seen once what was committed can be read: the end
// of this process does not take it back any more, but that of the machine may until
// CommitSeen returns. seen must not block, and is not called for a conflict.
func (s *Store) CommitSeen(ctx context.Context, signed *verify.Signed, zip *Staged, seen func()) error {
	n := signed.Record.Name
	if err := n.Check(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if zip != nil && (n.Kind != verify.Zip || zip.Root != signed.Record.Digest) {
		return fmt.Errorf("commit %s: staged zip has root %s, record says %s", n, zip.Root.H1(), signed.Record.Digest.H1())
	}
	for {
		err := s.commit(ctx, signed, zip, seen)
		if errors.Is(err, errStale) {
			continue // a file was healed with another encoding since the layout was made
		}
		if err != nil {
			return fmt.Errorf("commit %s: %w", n, err)
		}
		return nil
	}
}

var errStale = errors.New("layout is out of date")

func (s *Store) commit(ctx context.Context, signed *verify.Signed, zip *Staged, seen func()) error {
	c := commit{s: s, signed: signed, seen: seen, now: s.o.Clock()}
	w := write{entries: 10, bytes: len(signed.Envelope) + 1<<10, sync: true, apply: c.apply}
	if zip != nil {
		if err := c.prepare(zip); err != nil {
			return err
		}
		w.bytes += len(c.layout)
	}
	if err := s.do(ctx, w); err != nil {
		return err
	}
	if c.have == nil {
		return nil
	}
	have, err := verify.OpenSigned(c.have)
	if err != nil {
		return damaged("record", err)
	}
	return &ConflictError{Name: signed.Record.Name, Have: have, Got: signed}
}

type commit struct {
	s      *Store
	signed *verify.Signed
	seen   func() // may be nil
	now    time.Time
	zip    *Staged
	epoch  uint64
	layout []byte
	index  *zipIndex
	have   []byte // the envelope that stays, when there is a conflict
}

// prepare makes the layout. It runs outside of the writer, for a large zip has
// many files: they are referenced, so none can go away; and one that is
// quarantined meanwhile is found by whoever opens the zip. A header that is newer than
// the transaction, and another stream, came with a newer epoch: then apply refuses.
func (c *commit) prepare(zip *Staged) error {
	c.zip = zip
	return c.s.view(func(txn *badger.Txn) error {
		l, err := makeLayout(txn, zip.files, c.s.recentFile)
		if err != nil {
			return err
		}
		index, err := newZipIndex(zip.Listing, zip.files, l)
		if err != nil {
			return err
		}
		c.epoch, c.layout, c.index = l.epoch, l.encode(), index
		return nil
	})
}

// makeLayout looks up the streams of files with head, all of which must be held.
func makeLayout(txn *badger.Txn, files []verify.File, head func(*badger.Txn, verify.Digest) (fileHead, error)) (layout, error) {
	l := layout{files: make([]stream, len(files))}
	var err error
	if l.epoch, err = getEpoch(txn); err != nil {
		return l, err
	}
	for i, f := range files {
		h, err := head(txn, f.Sum)
		if err == nil && !h.present() {
			err = ErrIncomplete
		}
		if err != nil {
			return l, fmt.Errorf("file %.300q: %w", f.Name, err)
		}
		l.files[i] = h.stream()
	}
	return l, nil
}

func getEpoch(txn *badger.Txn) (uint64, error) { return getNumber(txn, spaceEpoch) }

// getNumber reads a keyspace of a single number, which is 0 at first.
func getNumber(txn *badger.Txn, space byte) (uint64, error) {
	v, err := getValue(txn, []byte{space})
	switch {
	case errors.Is(err, ErrNotFound):
		return 0, nil
	case err == nil && len(v) != 8:
		err = damaged(string(space), fmt.Errorf("%d bytes", len(v)))
	}
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

func (c *commit) apply(t *tx) error {
	c.have = nil
	if c.zip != nil && t.epoch != c.epoch {
		return errStale
	}
	r := &c.signed.Record
	k := recordKey(r.Name)
	old, err := t.get(k)
	switch {
	case errors.Is(err, ErrNotFound):
		if err := c.admit(t, k); err != nil {
			return err
		}
	case errors.Is(err, ErrDamaged):
		// What it said is lost. The new record takes its place, or the name could
		// never be served again.
		if err := c.replace(t, k); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		digest, envelope, err := splitRecord(old)
		if err != nil {
			return err
		}
		if digest != r.Digest {
			c.have = envelope
			return c.evidence(t)
		}
	}
	if c.zip != nil {
		if err := c.hold(t); err != nil {
			return err
		}
	}
	if c.seen != nil {
		t.after = append(t.after, c.seen)
	}
	return nil
}

// admit writes a record under a name that has none.
func (c *commit) admit(t *tx, k []byte) error {
	r := &c.signed.Record
	if err := t.arrive(r.Name, c.now); err != nil {
		return err
	}
	t.acct.record(r.Name.Kind, c.signed.Envelope, 1)
	t.after = append(t.after, func() { c.s.cacheRecord(c.signed) }) // who commits it reads it next
	return t.set(k, joinRecord(r.Digest, c.signed.Envelope))
}

// replace writes a record in place of a damaged one.
func (c *commit) replace(t *tx, k []byte) error {
	item, err := t.txn.Get(k)
	if err != nil {
		return damaged(describe(k), err)
	}
	c.s.o.Logger.Error("damaged record is replaced", "name", c.signed.Record.Name.String())
	t.acct.RecordBytes += int64(len(c.signed.Envelope)) - (item.ValueSize() - int64(len(verify.Digest{})) - sealSize)
	t.after = append(t.after, func() { c.s.cacheRecord(c.signed) })
	return t.set(k, joinRecord(c.signed.Record.Digest, c.signed.Envelope))
}

// hold makes a staged zip one that is held.
func (c *commit) hold(t *tx) error {
	root := c.zip.Root
	held, err := t.has(digestKey(spaceZip, root))
	if held || err != nil {
		return err
	}
	n, err := getIntent(t.txn, root)
	if err != nil || int(n) != len(c.zip.files) {
		return fmt.Errorf("staged zip %s was closed: %w", root.H1(), ErrIncomplete)
	}
	if err := t.set(digestKey(spaceZip, root), c.layout); err != nil {
		return err
	}
	now, size := c.now.Unix(), c.index.skeleton.Size()
	if err := t.set(digestKey(spaceUse, root), use{size: size, committed: now, read: now}.encode()); err != nil {
		return err
	}
	t.acct.Zips++
	t.acct.ZipBytes += size
	t.after = append(t.after, func() { c.s.cache.zips.add(root, c.index, c.index.weight()) })
	return t.del(digestKey(spaceIntent, root))
}

// Most refused records that are kept as evidence: a liar can make as many as it
// likes, and the first ones prove as much as all.
const (
	maxConflicts     = 1024
	maxConflictsName = 8 // of one name
)

// evidence keeps a refused record, once for each digest.
func (c *commit) evidence(t *tx) error {
	r := &c.signed.Record
	k := conflictKey(r.Name, r.Digest)
	known, err := t.has(k)
	if known || err != nil || t.acct.Conflicts >= maxConflicts {
		return err
	}
	of := 0
	prefix := k[:len(k)-len(r.Digest)]
	if err := scan(t.txn, prefix, nil, false, func(*badger.Item) error { of++; return nil }); err != nil || of >= maxConflictsName {
		return err
	}
	t.acct.Conflicts++
	return t.set(k, stamped(c.now.Unix(), c.signed.Envelope))
}

func joinRecord(d verify.Digest, envelope []byte) []byte {
	b := make([]byte, 0, len(d)+len(envelope)+sealSize)
	return append(append(b, d[:]...), envelope...)
}

func splitRecord(b []byte) (d verify.Digest, envelope []byte, err error) {
	if len(b) < len(d) {
		return d, nil, damaged("record", fmt.Errorf("%d bytes", len(b)))
	}
	copy(d[:], b)
	return d, b[len(d):], nil
}

// getListing reads and checks the listing of a root.
func getListing(txn *badger.Txn, root verify.Digest) (verify.Listing, error) {
	text, err := getListingText(txn, root)
	if err != nil {
		return verify.Listing{}, err
	}
	l, err := verify.ParseListing(text)
	if err != nil {
		return l, damaged("listing of "+root.H1(), err)
	}
	return l, nil
}

// getSums lists the files with content of a zip, each sum once.
func getSums(txn *badger.Txn, root verify.Digest) ([]verify.File, error) {
	l, err := getListing(txn, root)
	if err != nil {
		return nil, err
	}
	return modzip.Sums(l), nil
}

func getListingText(txn *badger.Txn, root verify.Digest) ([]byte, error) {
	var text []byte
	n := uint32(0)
	for ; ; n++ {
		err := viewValue(txn, chunkKey(spaceListing, root, n), func(v []byte) error {
			text = append(text, v...)
			return nil
		})
		if errors.Is(err, ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(text) > verify.MaxListing {
			return nil, damaged("listing of "+root.H1(), errors.New("too long"))
		}
	}
	if n == 0 {
		return nil, fmt.Errorf("listing of %s: %w", root.H1(), ErrNotFound)
	}
	if verify.DigestOf(text) != root {
		return nil, damaged("listing of "+root.H1(), errors.New("text has another digest"))
	}
	return text, nil
}
