package store

import (
	"bytes"
	"context"
	"fmt"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// PutContents keeps files that some staged or kept listings name; else it is
// ErrNotFound. Each content is hashed first: when one is not what its sum says, it is
// ErrBadFile and nothing is kept. The streams are this store's own making, see
// modzip.Pack. A file that is held already stays as it is. The files are durable when
// the zips that they belong to are committed.
func (s *Store) PutContents(ctx context.Context, contents []modzip.Content) error {
	for _, c := range contents {
		if got := verify.DigestOf(c.Data); got != c.Sum {
			return fmt.Errorf("put file %s: content has SHA-256 %s: %w", c.Sum, got, ErrBadFile)
		}
	}
	var files []RawFile
	var streams [][]byte
	size := 0
	flush := func() error {
		if len(files) == 0 {
			return nil
		}
		err := s.do(ctx, putFiles(files, streams))
		files, streams, size = nil, nil, 0
		return err
	}
	for _, c := range contents {
		wanted, err := s.wanted(c.Sum)
		if err != nil {
			return fmt.Errorf("put file %s: %w", c.Sum, err)
		}
		if !wanted {
			continue
		}
		f, stream, err := modzip.Pack(c.Sum, c.Data)
		if err != nil {
			return err
		}
		if f.CompressedSize > chunkSize {
			if err := s.putLarge(ctx, f, bytes.NewReader(stream)); err != nil {
				return err
			}
			continue
		}
		files, streams, size = append(files, f), append(streams, stream), size+len(stream)
		if size > maxBatchBytes/2 || len(files) >= maxBatchEntries/10 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
