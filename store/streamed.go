package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// streamAhead is how many chunks of one stream may wait for the writer.
const streamAhead = 4

// putStreamed writes a stream chunk by chunk while it is checked, so that it goes to
// the disk once. The last chunk, and with it the header that makes the file seen, waits
// for the verdict; of a stream that is no good the chunks are deleted again. The
// caller holds fill, and the file has nothing on disk that a bad stream could harm.
func (s *Store) putStreamed(ctx context.Context, f RawFile, r io.Reader) error {
	g, gctx := errgroup.WithContext(ctx)
	c := &chunker{ctx: gctx, memorySpool: memorySpool{left: f.CompressedSize}, out: make(chan []byte, streamAhead)}
	g.Go(func() error {
		defer close(c.out)
		c.verdict = f.Verify(gctx, io.TeeReader(io.LimitReader(r, f.CompressedSize), c))
		if c.verdict != nil {
			return c.verdict
		}
		return c.flush()
	})
	g.Go(func() error {
		return s.putChunks(gctx, f, func() ([]byte, error) {
			chunk, ok := <-c.out
			if !ok {
				return nil, cmp.Or(c.verdict, io.ErrUnexpectedEOF)
			}
			return chunk, nil
		})
	})
	err := g.Wait()
	if err == nil {
		return nil
	}
	if derr := s.dropStreamed(f); derr != nil {
		s.o.Logger.Debug("chunks of a stream that is no good stay until the file goes", "file", f.Sum.Hex(), "err", derr)
	}
	return err
}

// dropStreamed deletes the chunks of a file that is not held. What a crash leaves of
// them goes with the file's last reference, or is overwritten.
func (s *Store) dropStreamed(f RawFile) error {
	drop := write{urgent: true, entries: int(chunks(f.CompressedSize)), bytes: 64 * int(chunks(f.CompressedSize)), apply: func(t *tx) error {
		h, err := t.file(f.Sum)
		if errors.Is(err, ErrNotFound) || err == nil && (h.present() || h.num == 0) {
			return nil
		}
		if err != nil {
			return err
		}
		return t.deleteChunks(h.num, 0)
	}}
	if err := s.do(context.Background(), drop); err != nil {
		return fmt.Errorf("drop chunks of file %s: %w", f.Sum, err)
	}
	return nil
}

// chunker hands on chunks as they fill, all but the last.
type chunker struct {
	ctx context.Context
	memorySpool
	out     chan []byte
	verdict error // set before out is closed
}

// Write implements io.Writer.
func (c *chunker) Write(p []byte) (int, error) {
	n, err := c.memorySpool.Write(p)
	for err == nil && len(c.chunks) > 1 {
		err = c.send()
	}
	return n, err
}

// flush hands on what is left.
func (c *chunker) flush() error {
	for len(c.chunks) > 0 {
		if err := c.send(); err != nil {
			return err
		}
	}
	return nil
}

func (c *chunker) send() error {
	chunk, err := c.next()
	if err != nil {
		return err
	}
	select {
	case c.out <- chunk:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}
