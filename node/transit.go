package node

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// minStreamed is the size of the files of a zip, in bytes, from which on a client
// gets it while it arrives. A smaller one is here before that would pay, and then
// has a length and an entity tag.
const minStreamed = 1 << 20

// transit is a zip on its way here from other offices. Clients are given its
// files, each verified, as they arrive.
type transit struct {
	staged   *store.Staged
	transfer *exchange.Transfer
	from     origin
	users    atomic.Int32  // the transfer itself and the streams; the last one closes staged
	landed   chan struct{} // closed when the work for the zip has ended, and err is set
	err      error
}

func newTransit(staged *store.Staged, transfer *exchange.Transfer, from origin) *transit {
	t := &transit{staged: staged, transfer: transfer, from: from, landed: make(chan struct{})}
	t.users.Store(1)
	return t
}

// answer is a stream of the zip, whose bytes are counted as they go; false if it
// is too late for one.
func (t *transit) answer(ctx context.Context, count func(bytes int64)) (*protocol.Answer, bool) {
	for {
		n := t.users.Load()
		if n == 0 {
			return nil, false
		}
		if t.users.CompareAndSwap(n, n+1) {
			return &protocol.Answer{Stream: stream{ctx, t, count}, Size: -1, Closer: user{t}}, true
		}
	}
}

// Close gives up one use.
func (t *transit) close() {
	if t.users.Add(-1) == 0 {
		t.staged.Close()
	}
}

// wait returns when a file is here. When the transfer fails, the zip may still
// arrive from elsewhere.
func (t *transit) wait(ctx context.Context, f verify.File) error {
	if t.transfer.Wait(ctx, f) == nil {
		return nil
	}
	select {
	case <-t.landed:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

type stream struct {
	ctx   context.Context // of the client's request
	t     *transit
	count func(bytes int64)
}

// WriteTo implements io.WriterTo.
func (s stream) WriteTo(w io.Writer) (int64, error) {
	c := &counted{w: w}
	err := s.t.staged.WriteTo(s.ctx, c, s.t.wait)
	s.count(c.n)
	return c.n, err
}

type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

type user struct{ t *transit }

// Close implements io.Closer.
func (u user) Close() error {
	u.t.close()
	return nil
}
