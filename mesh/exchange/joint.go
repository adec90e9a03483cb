package exchange

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/store/modzip"
)

// largeFile is the size of a raw stream, in bytes, from which on it goes to the
// store while it arrives, and from which on a broken transfer is resumed in the
// middle. Smaller ones are read into memory first.
const largeFile = 1 << 20

// joint is a large file that arrives in one or more parts, perhaps from several
// peers, on its way into the store.
type joint struct {
	raw  modzip.Raw
	w    *io.PipeWriter
	off  atomic.Int64 // bytes that went in
	from []peer.ID    // who sent them
	put  chan error
	busy bool // somebody copies; guarded by the transfer's mu
	runs int  // how often somebody has begun to; likewise
}

var errAbandoned = errors.New("the rest of the file did not arrive")

// newJoint starts to put raw into the store.
func (x *Exchange) newJoint(ctx context.Context, raw modzip.Raw) (*joint, error) {
	r, w := io.Pipe()
	j := &joint{raw: raw, w: w, put: make(chan error, 1)}
	if !x.start(func() {
		err := x.cfg.Backend.PutRaw(ctx, raw, r)
		r.CloseWithError(errors.Join(io.ErrClosedPipe, err)) // whoever writes on, stops
		j.put <- err
	}) {
		return nil, ErrClosed
	}
	return j, nil
}

// copy takes what is left of the file from src, which p sends. It returns nil when
// the file is complete or the store wants no more of it, and the verdict is to be
// asked for; else errAbandoned with the error of src.
func (j *joint) copy(p peer.ID, src io.Reader, progress func(int)) error {
	if !slices.Contains(j.from, p) {
		j.from = append(j.from, p)
	}
	buf := make([]byte, 64<<10)
	for off := j.off.Load(); off < j.raw.CompressedSize; off = j.off.Load() {
		n, err := io.ReadFull(src, buf[:min(int64(len(buf)), j.raw.CompressedSize-off)])
		if n > 0 {
			progress(n)
			if _, werr := j.w.Write(buf[:n]); werr != nil {
				return nil
			}
			j.off.Add(int64(n))
		}
		if err != nil {
			return errors.Join(errAbandoned, err)
		}
	}
	return nil
}

// verdict ends the file and returns what the store says of it, when it has said so.
// It is asked for once.
func (j *joint) verdict(err error) error {
	j.w.CloseWithError(err) // nil is EOF
	return <-j.put
}

// abandon drops the file and waits until the store has let go of it.
func (j *joint) abandon() { j.verdict(errAbandoned) }
