package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// tileHeight is the height of tiles that checksum databases publish and clients
// ask for: 256 hashes, 8 KiB.
const tileHeight = 8

// treeReader reads hashes of one signed tree through tiles, from the cache or from
// one source, and authenticates every tile against that tree. It belongs to one
// operation on one goroutine. What was read reaches the cache with commit, which
// is called once the tree itself is known to be on the database's timeline.
type treeReader struct {
	ctx  context.Context
	d    *Database
	src  *source // nil: the cache alone
	tree tlog.Tree

	flights   []*flight[[]byte]    // that this operation takes part in
	fetched   map[tlog.Tile]bool   // tiles that did not come from the cache
	verified  map[tlog.Tile][]byte // fetched tiles that belong to the tree
	fromCache bool                 // a tile of the current read came from the cache
	bypass    bool                 // the cache is not to be read, because what it holds does not fit
	readErr   error                // why the current read of tiles failed
}

func (d *Database) reader(ctx context.Context, src *source, tree tlog.Tree) *treeReader {
	return &treeReader{ctx: ctx, d: d, src: src, tree: tree,
		fetched: make(map[tlog.Tile]bool), verified: make(map[tlog.Tile][]byte)}
}

// ReadHashes implements tlog.HashReader. When tiles do not add up to the tree and
// some of them came from the cache, they are all read anew from the source, since
// a damaged cache must heal.
func (r *treeReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes, err := r.readHashes(indexes)
	if err != nil && r.readErr == nil && r.fromCache && r.src != nil {
		r.d.log.Warn("cached tiles do not fit the signed tree; reading them again",
			"database", r.d.name, "tree", r.tree.N, "error", err)
		r.bypass = true
		hashes, err = r.readHashes(indexes)
	}
	switch {
	case err == nil:
		return hashes, nil
	case r.readErr != nil:
		return nil, r.readErr
	default:
		return nil, fmt.Errorf("%w: tiles of the tree of %d: %w", errRejected, r.tree.N, err)
	}
}

func (r *treeReader) readHashes(indexes []int64) ([]tlog.Hash, error) {
	r.readErr, r.fromCache = nil, false
	hashes, err := tlog.TileHashReader(r.tree, (*tileReader)(r)).ReadHashes(indexes)
	if err != nil {
		r.close()
	}
	return hashes, err
}

// commit puts the tiles that were fetched and verified into the cache.
func (r *treeReader) commit() {
	for tile, data := range r.verified {
		r.d.saveTile(tile, data)
		delete(r.verified, tile)
	}
	r.leave(false)
}

// close ends the operation. Tiles that were not committed may be bad, so nobody
// shall join their reading any more; but a caller that gave up says nothing of them.
func (r *treeReader) close() { r.leave(r.ctx.Err() == nil) }

// leave gives up the shares in reads of tiles. They are held until the tiles are
// in the cache, so that no other operation reads the same tile in between.
func (r *treeReader) leave(forget bool) {
	for _, f := range r.flights {
		r.d.tiles.leave(f, forget)
	}
	r.flights = nil
}

// tileReader is a treeReader's lower side: the tlog.TileReader.
type tileReader treeReader

func (r *tileReader) Height() int { return tileHeight }

// ReadTiles implements tlog.TileReader. Missing tiles are fetched at once.
func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	waiting := make(map[int]*flight[[]byte])
	for i, tile := range tiles {
		if got := r.verified[tile]; got != nil {
			data[i] = got
			continue
		}
		if !r.bypass {
			if data[i] = r.d.cachedTile(tile); data[i] != nil {
				r.fromCache = true
				continue
			}
		}
		if r.src == nil {
			r.readErr = fmt.Errorf("%s of database %s: %w", tile.Path(), r.d.name, ErrNotCached)
			return nil, r.readErr
		}
		f := r.d.tiles.join(r.ctx, r.src.id+" "+tile.Path(), func(ctx context.Context) ([]byte, error) {
			return r.d.fetchTile(ctx, r.src, tile)
		})
		r.flights = append(r.flights, f)
		waiting[i] = f
	}
	for i, f := range waiting {
		var err error
		if data[i], err = f.wait(r.ctx); err != nil {
			r.readErr = err
			return nil, err
		}
		r.fetched[tiles[i]] = true
	}
	return data, nil
}

// SaveTiles implements tlog.TileReader: data belongs to the tree.
func (r *tileReader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, tile := range tiles {
		if r.fetched[tile] {
			r.verified[tile] = data[i]
		}
	}
}

// tileKey is where the cache keeps tile's coordinates, in the greatest width that
// was verified: narrower ones are its beginnings.
func (d *Database) tileKey(tile tlog.Tile) string {
	tile.W = 1 << tile.H
	return d.prefix + tile.Path()
}

func (d *Database) cachedTile(tile tlog.Tile) []byte {
	data := d.cached(d.tileKey(tile))
	if len(data)%tlog.HashSize != 0 || len(data) < tile.W*tlog.HashSize {
		return nil
	}
	return data[:tile.W*tlog.HashSize]
}

// saveTile caches a verified tile, unless it is there, perhaps as part of a wider
// one. A damaged one is overwritten.
func (d *Database) saveTile(tile tlog.Tile, data []byte) {
	d.saving.Lock()
	defer d.saving.Unlock()
	if bytes.HasPrefix(d.cached(d.tileKey(tile)), data) {
		return
	}
	d.save(d.tileKey(tile), data)
}

// fetchTile reads a tile from src. A partial tile that is gone has been completed
// since: then the full one is there.
func (d *Database) fetchTile(ctx context.Context, src *source, tile tlog.Tile) ([]byte, error) {
	d.stats.tiles.Add(1)
	data, err := d.read(ctx, src, "/"+tile.Path())
	want := tile.W * tlog.HashSize
	if full := 1 << tile.H; err != nil && tile.W < full && ctx.Err() == nil {
		whole := tile
		whole.W = full
		if again, errFull := d.read(ctx, src, "/"+whole.Path()); errFull == nil && len(again) == full*tlog.HashSize {
			data, err = again[:want], nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		// A signed tree promises its tiles, so their absence is no answer about a module.
		return nil, fmt.Errorf("%w: it has no %s: %v", errRejected, tile.Path(), err)
	}
	if err == nil && len(data) != want {
		err = fmt.Errorf("%w: %s of %d bytes, want %d", errRejected, tile.Path(), len(data), want)
	}
	return data, err
}

// BodyLimit is how many bytes a database may answer at path at most.
func BodyLimit(path string) int64 {
	switch {
	case strings.HasPrefix(path, "/tile/"):
		if tile, err := tlog.ParseTilePath(path[1:]); err == nil && tile.L >= 0 {
			return tlog.HashSize << tileHeight
		}
		return maxDataTile
	case strings.HasPrefix(path, "/lookup/"):
		return maxTreeHead + maxSumText + 32
	default:
		return maxTreeHead
	}
}
