package store

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// GCOptions says what GC drops. Zero values take those of the store's Options.
type GCOptions struct {
	MaxSize  int64         // drop the zips that were read longest ago until files take less than this, in bytes
	MaxAge   time.Duration // drop zips that were not read for this long
	DryRun   bool          // drop nothing, only report what would be
	Reclaim  bool          // give space back to the disk even when little was dropped: where a table's worth is to be had
	Progress func(Progress)
}

// Held is a zip that the store holds.
type Held struct {
	Module    module.Version // empty for the zip without files, which many modules share
	Root      verify.Digest
	Size      int64 // bytes of the zip
	Committed time.Time
	Read      time.Time // last
	Pinned    bool
}

// GCReport says what GC did.
type GCReport struct {
	Dropped    []Held
	Kept       []Held // over the limits, but MayDrop said that they may be the last copies, or could not tell
	Pinned     int    // over the limits, but pinned
	FreedBytes int64  // streams of files that are gone
	DiskBefore int64  // bytes of the store's files on disk
	DiskAfter  int64
}

// Limits are Options.MaxSize and MaxAge as they are now.
func (s *Store) Limits() (maxSize int64, maxAge time.Duration) {
	return s.maxSize.Load(), time.Duration(s.maxAge.Load())
}

// SetLimits replaces Options.MaxSize and MaxAge; Run keeps to them from its next
// round on.
func (s *Store) SetLimits(maxSize int64, maxAge time.Duration) {
	s.maxSize.Store(maxSize)
	s.maxAge.Store(int64(maxAge))
}

// lowWater is the part of MaxSize down to which GC drops once above it, so that
// it does not run for each release.
const lowWater = 0.9

// GC drops zips by age and by least recent use, asks MayDrop before each, spares
// what is pinned or in use, and gives the space back to the disk while the store
// goes on serving. Records stay: they are small, and are what a name means. It may
// be interrupted at any time.
func (s *Store) GC(ctx context.Context, o GCOptions) (*GCReport, error) {
	maxSize, maxAge := s.Limits()
	if o.MaxSize == 0 {
		o.MaxSize = maxSize
	}
	if o.MaxAge == 0 {
		o.MaxAge = maxAge
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	g := gc{s: s, o: o, report: &GCReport{DiskBefore: s.DiskUsage()}}
	s.flushReads(ctx)
	held, err := s.Held(ctx)
	if err != nil {
		return g.report, fmt.Errorf("gc: %w", err)
	}
	before := s.Accounting().FileBytes
	err = g.drop(ctx, held)
	if o.DryRun {
		g.report.DiskAfter = g.report.DiskBefore
		return g.report, err
	}
	g.report.FreedBytes = max(0, before-s.Accounting().FileBytes)
	garbage := s.garbage.Add(g.report.FreedBytes)
	if err == nil && (garbage >= minReclaim || o.Reclaim && s.slack() >= s.db.Opts().MemTableSize) {
		if err = s.reclaim(ctx); err == nil {
			s.garbage.Add(-garbage)
		}
	}
	g.report.DiskAfter = s.DiskUsage()
	if err != nil {
		return g.report, fmt.Errorf("gc: %w", err)
	}
	s.endGC(g.report)
	return g.report, nil
}

type gc struct {
	s      *Store
	o      GCOptions
	report *GCReport
}

// drop goes through the zips, least recently read first.
func (g *gc) drop(ctx context.Context, held []Held) error {
	sort.SliceStable(held, func(i, j int) bool { return held[i].Read.Before(held[j].Read) })
	size := g.s.Accounting().FileBytes
	target := size
	if g.o.MaxSize > 0 && size > g.o.MaxSize {
		target = int64(lowWater * float64(g.o.MaxSize))
	}
	oldest := time.Time{}
	if g.o.MaxAge > 0 {
		oldest = g.s.o.Clock().Add(-g.o.MaxAge)
	}
	for i, h := range held {
		if size <= target && !h.Read.Before(oldest) {
			break // all that follow were read later
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		g.o.Progress(Progress{Done: int64(i), Total: int64(len(held)), Bytes: g.report.FreedBytes, Current: h.Module.String()})
		if h.Pinned {
			g.report.Pinned++
			continue
		}
		freed, err := g.one(ctx, h)
		if err != nil {
			return err
		}
		size -= freed
		g.report.FreedBytes += freed
	}
	return nil
}

// one drops a zip if that is allowed, and returns how much that frees.
func (g *gc) one(ctx context.Context, h Held) (freed int64, err error) {
	if g.s.o.MayDrop != nil {
		ok, err := g.s.o.MayDrop(ctx, h.Root)
		if err != nil {
			g.s.o.Logger.Warn("zip is kept, for nobody can tell whether it is the last copy", "module", h.Module.String(), "error", err)
		}
		if err != nil || !ok {
			g.report.Kept = append(g.report.Kept, h)
			return 0, nil
		}
	}
	if g.o.DryRun {
		g.report.Dropped = append(g.report.Dropped, h)
		return g.s.exclusive(h.Root)
	}
	before := g.s.Accounting().FileBytes
	err = g.s.evict(ctx, h.Root)
	if errors.Is(err, ErrBusy) || errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if errors.Is(err, ErrDamaged) {
		g.s.o.Logger.Error("zip cannot be dropped", "module", h.Module.String(), "error", err)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	g.report.Dropped = append(g.report.Dropped, h)
	return before - g.s.Accounting().FileBytes, nil
}

// exclusive is the size of the streams that no other zip shares.
func (s *Store) exclusive(root verify.Digest) (bytes int64, err error) {
	err = s.view(func(txn *badger.Txn) error {
		files, err := getSums(txn, root)
		if err != nil {
			return err
		}
		for _, f := range files {
			h, err := getFile(txn, f.Sum)
			if err != nil {
				return err
			}
			if h.refs == 1 && h.present() {
				bytes += h.raw.CompressedSize
			}
		}
		return nil
	})
	return bytes, err
}

// Drop drops the zip of a module version, pinned or not, without asking; its
// records stay. ErrNotFound: it is not held; ErrBusy: it is being staged.
func (s *Store) Drop(ctx context.Context, root verify.Digest) error { return s.evict(ctx, root) }

// Held lists the zips that the store holds.
func (s *Store) Held(ctx context.Context) ([]Held, error) {
	pinned, err := s.pinned()
	if err != nil {
		return nil, err
	}
	var list []Held
	err = s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{spaceUse}, nil, true, func(item *badger.Item) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			h, err := heldOf(txn, item)
			if err != nil {
				return err
			}
			h.Pinned = pinned(h.Module)
			list = append(list, h)
			return nil
		})
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range list {
		if at, ok := s.reads[list[i].Root]; ok {
			list[i].Read = time.Unix(at, 0).UTC()
		}
	}
	return list, err
}

func heldOf(txn *badger.Txn, item *badger.Item) (Held, error) {
	var h Held
	var err error
	if h.Root, err = parseDigest(item.KeyCopy(nil)); err != nil {
		return h, err
	}
	err = viewItem(item, func(v []byte) error {
		u, err := decodeUse(v)
		h.Size, h.Committed, h.Read = u.size, time.Unix(u.committed, 0).UTC(), time.Unix(u.read, 0).UTC()
		return err
	})
	if err != nil {
		return h, err
	}
	// Every name in a listing begins with path@version.
	err = viewValue(txn, chunkKey(spaceListing, h.Root, 0), func(v []byte) error {
		_, name, _ := strings.Cut(string(v[:min(len(v), maxKey)]), "  ")
		path, rest, _ := strings.Cut(name, "@")
		version, _, _ := strings.Cut(rest, "/")
		h.Module = module.Version{Path: path, Version: version}
		return nil
	})
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
		err = nil // it is found by a scrub, and named by its root here
	}
	return h, err
}
