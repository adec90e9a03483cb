package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/verify"
)

// Usage says what the zips of a module take. Sizes are in bytes.
type Usage struct {
	Path        string    `json:"path"`
	Zips        int       `json:"zips"`
	ZipBytes    int64     `json:"zip_bytes"`    // their sizes, as served
	Files       int64     `json:"files"`        // distinct ones
	FileBytes   int64     `json:"file_bytes"`   // their streams, each once
	SharedFiles int64     `json:"shared_files"` // of Files, those that zips of other modules hold too
	SharedBytes int64     `json:"shared_bytes"` // their streams, each once
	Pinned      int       `json:"pinned"`       // zips that GC spares
	Read        time.Time `json:"read"`         // last
}

// Usage calls fn with what each module takes whose path is prefix or below it,
// sorted by path; an empty prefix is all modules. Dropping all zips of a module
// frees FileBytes less SharedBytes. Zips whose listing is damaged count with
// their size only. It reads the listings of one module at a time.
func (s *Store) Usage(ctx context.Context, prefix string, fn func(Usage) error) error {
	held, err := s.Held(ctx)
	if err != nil {
		return err
	}
	held = slices.DeleteFunc(held, func(h Held) bool {
		return prefix != "" && h.Module.Path != prefix && !strings.HasPrefix(h.Module.Path, prefix+"/")
	})
	slices.SortStableFunc(held, func(a, b Held) int { return cmp.Compare(a.Module.Path, b.Module.Path) })
	for len(held) > 0 {
		n := 1
		for n < len(held) && held[n].Module.Path == held[0].Module.Path {
			n++
		}
		u, err := s.usage(ctx, held[:n])
		if err != nil {
			return err
		}
		if err := fn(u); err != nil {
			return err
		}
		held = held[n:]
	}
	return nil
}

// usage counts the zips of one module.
func (s *Store) usage(ctx context.Context, held []Held) (Usage, error) {
	u := Usage{Path: held[0].Module.Path, Zips: len(held)}
	own := make(map[verify.Digest]uint32) // references from these zips
	err := s.view(func(txn *badger.Txn) error {
		for _, h := range held {
			if err := ctx.Err(); err != nil {
				return err
			}
			u.ZipBytes += h.Size
			if h.Pinned {
				u.Pinned++
			}
			if h.Read.After(u.Read) {
				u.Read = h.Read
			}
			files, err := getSums(txn, h.Root)
			if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) {
				return err
			}
			for _, f := range files {
				own[f.Sum]++
			}
		}
		return u.addFiles(txn, own)
	})
	return u, err
}

func (u *Usage) addFiles(txn *badger.Txn, own map[verify.Digest]uint32) error {
	for sum, refs := range own {
		h, err := getFile(txn, sum)
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) || err == nil && !h.present() {
			continue // it takes no space that dropping the module would free
		}
		if err != nil {
			return err
		}
		u.Files++
		u.FileBytes += h.raw.CompressedSize
		if h.refs > refs {
			u.SharedFiles++
			u.SharedBytes += h.raw.CompressedSize
		}
	}
	return nil
}
