package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// headKey is where the cache keeps the latest tree head, and copyKey where it keeps
// it once more: without any the node would not start, for one flipped bit.
const (
	headKey = "latest"
	copyKey = "latest-copy"
)

// loadHead reads the tree head of the last run. If none of its copies can be read
// that is an error rather than a fresh start, because a fresh start is a rollback.
func (d *Database) loadHead() error {
	head, err := d.readHead(headKey)
	if err != nil {
		copied, copyErr := d.readHead(copyKey)
		switch {
		case copyErr == nil:
			d.log.Warn("the stored tree head cannot be read; its copy is used", "database", d.name, "error", err)
			head, err = copied, nil
		case errors.Is(err, fs.ErrNotExist) && errors.Is(copyErr, fs.ErrNotExist):
			head, err = treeHead{tree: emptyTree}, nil
		}
	}
	if err != nil {
		return fmt.Errorf("checksum database %s: its stored tree head and the copy of that are damaged, and to start without one would allow a rollback; restore a backup, or start with an empty data directory: %w", d.name, err)
	}
	d.head = head
	return nil
}

func (d *Database) readHead(key string) (treeHead, error) {
	msg, err := d.cache.Get(d.prefix + key)
	if err != nil {
		return treeHead{}, err
	}
	return openHead(msg, d.verifier)
}

// latest is the greatest tree head on the timeline so far.
func (d *Database) latest() treeHead {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.head
}

// Head returns the signed head of the greatest tree that this node has accepted,
// to be compared with other nodes' (see Observe), and that tree's size. It is nil
// before the first.
func (d *Database) Head() (note []byte, size int64) {
	h := d.latest()
	return h.note, h.tree.N
}

// Observe checks a tree head that somebody else, such as another office, was
// shown. A head that continues this node's timeline becomes its latest; one that
// contradicts it is ErrSecurity and raises the alarm; one that is not signed by
// the database is ErrProof.
func (d *Database) Observe(ctx context.Context, note []byte) error {
	h, err := openHead(note, d.verifier)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	err = d.place(ctx, nil, h)
	if err != nil && !errors.Is(err, ErrSecurity) {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, d.name, err)
	}
	return err
}

// place finds h's place on the timeline. When it returns nil, h is part of the
// tree that latest returns from then on. Tiles come from src, or from the cache
// alone if src is nil; when that does not do, from any other source, because a
// database that shows some a false history has few tiles that fit the true one.
func (d *Database) place(ctx context.Context, src *source, h treeHead) error {
	err := d.placeFrom(ctx, src, h)
	if err == nil || errors.Is(err, ErrSecurity) {
		return err
	}
	said := failures{err}
	for _, other := range d.order() {
		if other == src || ctx.Err() != nil {
			continue
		}
		if err = d.placeFrom(ctx, other, h); err == nil || errors.Is(err, ErrSecurity) {
			return err
		}
		said = append(said, err)
	}
	if src != nil {
		return said[0] // src's own failure: it is not to blame for the others'
	}
	return said
}

func (d *Database) placeFrom(ctx context.Context, src *source, h treeHead) error {
	d.offer(h)
	for {
		latest := d.latest()
		if h.tree.N <= latest.tree.N {
			return d.checkTrees(ctx, src, h, latest, nil)
		}
		if err := d.extendInTurn(ctx, src, h); err != nil && !errors.Is(err, errMoved) {
			return err
		}
	}
}

// extendInTurn is extend by one at a time, because who comes next mostly finds the work
// done. But it waits for no longer than the hedge: the one whose turn it is may have a
// source that is silent.
func (d *Database) extendInTurn(ctx context.Context, src *source, h treeHead) error {
	patience := time.NewTimer(d.hedge)
	defer patience.Stop()
	select {
	case d.extending <- struct{}{}:
		defer func() { <-d.extending }()
		return d.extend(ctx, src, h, true)
	case <-patience.C:
		return d.extend(ctx, src, h, false)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// offer notes that h waits for its place. Of many new heads that arrive together
// only the greatest has to be fetched tiles for: the others are then in its past.
func (d *Database) offer(h treeHead) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.tree.N > d.offered.tree.N {
		d.offered = h
	}
}

// extend makes the timeline longer, by the greatest head on offer if it is this one's
// turn, or else by h. The error is errMoved if another one was faster.
func (d *Database) extend(ctx context.Context, src *source, h treeHead, turn bool) error {
	latest := d.latest()
	install := func(newer treeHead) error { return d.install(latest, newer) }
	if turn {
		best := d.takeOffer()
		if best.tree.N > h.tree.N && best.tree.N > latest.tree.N {
			if err := d.checkTrees(ctx, src, latest, best, install); err == nil || errors.Is(err, errMoved) {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	if h.tree.N <= latest.tree.N {
		return nil
	}
	return d.checkTrees(ctx, src, latest, h, install)
}

func (d *Database) takeOffer() (best treeHead) {
	d.mu.Lock()
	defer d.mu.Unlock()
	best, d.offered = d.offered, treeHead{}
	return best
}

// errMoved means that the latest head is not the one any more that another was checked
// against.
var errMoved = errors.New("the latest tree head has changed")

// install makes h the latest head after that which it was checked against. It is
// durable before it is used.
func (d *Database) install(after, h treeHead) error {
	d.installing.Lock()
	defer d.installing.Unlock()
	if latest := d.latest(); !bytes.Equal(latest.note, after.note) {
		return errMoved
	}
	for _, key := range [...]string{copyKey, headKey} { // the last is synced, and with it the first
		if err := d.cache.Put(d.prefix+key, h.note); err != nil {
			return fmt.Errorf("checksum database %s: store the tree head: %w", d.name, err)
		}
	}
	d.mu.Lock()
	d.head = h
	d.mu.Unlock()
	return nil
}

// checkTrees checks that the tree of older is the beginning of the tree of newer,
// and then calls accept, if any, with newer.
//
// Reading the root of older out of newer reads every tile on older's right edge in
// the width that newer has. These are the only tiles that change between the two.
// So the cache always holds, in the width of the latest tree, every tile that the
// records looked up so far need: clients can check them with no database in reach.
func (d *Database) checkTrees(ctx context.Context, src *source, older, newer treeHead, accept func(treeHead) error) error {
	r := d.reader(ctx, src, newer.tree)
	defer r.close()
	root := newer.tree.Hash
	if older.tree.N != newer.tree.N {
		var err error
		if root, err = tlog.TreeHash(older.tree.N, r); err != nil {
			return fmt.Errorf("check the tree of %d against that of %d: %w", older.tree.N, newer.tree.N, err)
		}
	}
	if root != older.tree.Hash {
		f, err := newFork(older, newer, root, r)
		if err != nil {
			return fmt.Errorf("collect evidence of a fork: %w", err)
		}
		d.alarm(f)
		return &ForkError{Database: d.name, Fork: *f}
	}
	r.commit()
	if accept != nil {
		return accept(newer)
	}
	return nil
}
