package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// maxDataTile bounds a tile of 256 records, in bytes; real ones have 60 KB.
	maxDataTile = 1 << 20
	// maxTileLevel is the highest level of tiles in a tree of maxTreeSize.
	maxTileLevel = 5
	// headAge is for how long an answer to /latest is good enough for clients.
	headAge = 30 * time.Second
)

// ServeOptions restricts how a request may be answered.
type ServeOptions struct {
	CachedOnly bool // ask no source: for peers, and for clients that say so
}

// Serve answers a client's request below /sumdb/NAME/: "supported", "latest",
// "lookup/MODULE@VERSION" or "tile/8/...", escaped as the go command does. All
// that it answers was verified, and lookups end in this node's latest tree head,
// whose tiles for every module ever looked up are in the cache. The answer may be
// shared and is not to be changed. Errors are
// fs.ErrNotExist for what the database does not have, fs.ErrInvalid for a path
// that means nothing, ErrUnavailable for an outage, and with CachedOnly
// ErrNotCached.
func (d *Database) Serve(ctx context.Context, path string, o ServeOptions) ([]byte, error) {
	kind, rest, _ := strings.Cut(path, "/")
	switch {
	case path == "supported":
		return nil, nil
	case path == "latest":
		return d.serveLatest(ctx, o)
	case kind == "lookup":
		m, err := parseLookup(rest)
		if err != nil {
			return nil, err
		}
		return d.serveLookup(ctx, m, o)
	case kind == "tile":
		tile, err := tlog.ParseTilePath(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
		}
		return d.serveTile(ctx, tile, o)
	}
	return nil, fmt.Errorf("checksum databases have no %.200q: %w", path, fs.ErrNotExist)
}

// parseLookup reads the escaped MODULE@VERSION of a lookup.
func parseLookup(s string) (module.Version, error) {
	path, version, ok := strings.Cut(s, "@")
	if !ok {
		return module.Version{}, fmt.Errorf("%w: lookup of %.200q: want MODULE@VERSION", fs.ErrInvalid, s)
	}
	var m module.Version
	var err error
	if m.Path, err = module.UnescapePath(path); err == nil {
		m.Version, err = module.UnescapeVersion(version)
	}
	if err == nil {
		err = checkModule(m)
	}
	if err != nil {
		return module.Version{}, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	return m, nil
}

func (d *Database) serveLookup(ctx context.Context, m module.Version, o ServeOptions) ([]byte, error) {
	p, err := d.Known(m)
	if err != nil && !o.CachedOnly {
		p, err = d.Prove(ctx, m)
	}
	if err != nil {
		return nil, err
	}
	head := p.TreeHead
	if latest := d.latest(); latest.tree.N > p.ID {
		head = latest.note
	}
	msg, err := tlog.FormatRecord(p.ID, p.Text)
	if err != nil {
		return nil, fmt.Errorf("lookup of %s: %w", m, err)
	}
	return append(msg, head...), nil
}

func (d *Database) serveLatest(ctx context.Context, o ServeOptions) ([]byte, error) {
	d.mu.Lock()
	head, fresh := d.head.note, time.Since(d.refreshed) < headAge
	d.mu.Unlock()
	if head != nil && (fresh || o.CachedOnly) {
		return head, nil
	}
	if o.CachedOnly {
		return nil, fmt.Errorf("tree head of %s: %w", d.name, ErrNotCached)
	}
	shown, err := d.refresh(ctx)
	if head := d.latest().note; head != nil {
		return head, nil // perhaps an old one: as true as ever
	}
	return shown, err
}

// Refresh asks the sources for the latest tree head and puts it on the timeline.
func (d *Database) Refresh(ctx context.Context) error {
	_, err := d.refresh(ctx)
	return err
}

// refresh returns the head that the source showed, which may be older than the
// latest one.
func (d *Database) refresh(ctx context.Context) ([]byte, error) {
	return d.answers.do(ctx, "latest", func(ctx context.Context) ([]byte, error) {
		return try(ctx, d, func(ctx context.Context, src *source) ([]byte, error) {
			d.stats.heads.Add(1)
			msg, err := d.read(ctx, src, "/latest")
			if err != nil {
				return nil, err
			}
			h, err := openHead(msg, d.verifier)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errRejected, err)
			}
			if err := d.place(ctx, src, h); err != nil {
				return nil, err
			}
			d.mu.Lock()
			d.refreshed = time.Now()
			d.mu.Unlock()
			return h.note, nil
		})
	})
}

// serveTile authenticates what it serves against the latest tree, whether it was
// cached or not.
func (d *Database) serveTile(ctx context.Context, t tlog.Tile, o ServeOptions) ([]byte, error) {
	if t.H != tileHeight || t.L > maxTileLevel {
		return nil, fmt.Errorf("%s: only tiles of height %d and level up to %d are served: %w",
			t.Path(), tileHeight, maxTileLevel, fs.ErrNotExist)
	}
	if !hasTile(d.latest().tree.N, t) {
		if o.CachedOnly {
			return nil, fmt.Errorf("%s of %s: %w", t.Path(), d.name, ErrNotCached)
		}
		if _, err := d.refresh(ctx); err != nil {
			return nil, err
		}
		if n := d.latest().tree.N; !hasTile(n, t) {
			return nil, fmt.Errorf("%s: not in the tree of %d of %s: %w", t.Path(), n, d.name, fs.ErrNotExist)
		}
	}
	read := d.hashTile
	if t.L < 0 {
		read = d.dataTile
	}
	data, err := read(ctx, nil, t)
	if err == nil {
		return data, nil
	}
	if o.CachedOnly {
		return nil, fmt.Errorf("%s of %s: %w: %w", t.Path(), d.name, ErrNotCached, err)
	}
	return d.answers.do(ctx, t.Path(), func(ctx context.Context) ([]byte, error) {
		return try(ctx, d, func(ctx context.Context, src *source) ([]byte, error) { return read(ctx, src, t) })
	})
}

// hasTile reports whether a tree of n records has all of t.
func hasTile(n int64, t tlog.Tile) bool {
	level := uint(max(t.L, 0) * t.H)
	first := uint64(t.N) << t.H
	return uint64(t.N) < maxTreeSize && first+uint64(t.W) <= uint64(n)>>level
}

func (d *Database) hashTile(ctx context.Context, src *source, t tlog.Tile) ([]byte, error) {
	r := d.reader(ctx, src, d.latest().tree)
	defer r.close()
	data, err := tlog.ReadTileData(t, r)
	if err != nil {
		return nil, err
	}
	r.commit()
	return data, nil
}

// dataTile reads a tile of records. Full ones are cached.
func (d *Database) dataTile(ctx context.Context, src *source, t tlog.Tile) ([]byte, error) {
	leaves := t
	leaves.L = 0
	hashes, err := d.hashTile(ctx, src, leaves)
	if err != nil {
		return nil, err
	}
	key := d.prefix + t.Path()
	if data := d.cached(key); data != nil && checkRecords(data, hashes) == nil {
		return data, nil
	}
	if src == nil {
		return nil, fmt.Errorf("%s of %s: %w", t.Path(), d.name, ErrNotCached)
	}
	d.stats.tiles.Add(1)
	data, err := d.read(ctx, src, "/"+t.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it has no %s: %v", errRejected, t.Path(), err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkRecords(data, hashes); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errRejected, t.Path(), err)
	}
	if t.W == 1<<t.H {
		d.save(key, data)
	}
	return data, nil
}

// checkRecords checks the records of a data tile, each with a blank line after it,
// against their hashes.
func checkRecords(data, hashes []byte) error {
	for i := 0; i < len(hashes); i += tlog.HashSize {
		end := bytes.Index(data, []byte("\n\n"))
		if end < 0 {
			return fmt.Errorf("%d records, want %d", i/tlog.HashSize, len(hashes)/tlog.HashSize)
		}
		if tlog.RecordHash(data[:end+1]) != tlog.Hash(hashes[i:i+tlog.HashSize]) {
			return fmt.Errorf("record %d has another hash", i/tlog.HashSize)
		}
		data = data[end+2:]
	}
	if len(data) != 0 {
		return fmt.Errorf("%d bytes after the last record", len(data))
	}
	return nil
}
