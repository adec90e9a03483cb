package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/meshproxy/meshproxy/store/modzip"
)

// minCharge is what a small file counts for at least against maxBuffered, so
// that empty files do not make unbounded numbers of goroutines.
const minCharge = 16 << 10

// receiveSmall reads a file into memory and lets the store verify and keep it
// while the next one arrives.
func (s *source) receiveSmall(i int, raw modzip.Raw) error {
	charge := max(raw.CompressedSize, minCharge)
	if err := s.t.buffers.Acquire(s.ctx, charge); err != nil {
		return context.Cause(s.ctx)
	}
	release := func() { s.t.buffers.Release(charge) }
	data := make([]byte, raw.CompressedSize)
	if _, err := io.ReadFull(s.l.r, data); err != nil {
		release()
		return noEOF(err)
	}
	s.count(raw.CompressedSize)
	if !s.arrived(i, raw.CompressedSize) {
		release()
		return nil
	}
	return s.keep(release, func() {
		// Not the stream's context: what has arrived is kept, whatever comes next.
		s.verdict(i, raw.CompressedSize, s.t.x.cfg.Backend.PutRaw(s.t.x.ctx, raw, bytes.NewReader(data)))
	})
}

// keep does put, which keeps a file, while the next one arrives, and release after it.
func (s *source) keep(release, put func()) error {
	s.t.workers.Add(1) // this worker is one of those waited for, so the count is not zero
	if !s.t.x.start(func() {
		defer s.t.workers.Done()
		defer release()
		// Without a turn the exchange is closed, and put finds that out.
		if s.t.x.checks.Acquire(s.t.x.ctx, 1) == nil {
			defer s.t.x.checks.Release(1)
		}
		put()
	}) {
		s.t.workers.Done()
		release()
		return ErrClosed
	}
	return nil
}

// arrived notes that file i came in, and reports whether it is still wanted.
func (s *source) arrived(i int, n int64) bool {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := t.sched.arrived(s.peer, i)
	if !wanted {
		t.stats.Wasted += n
	}
	return wanted
}

// verdict takes what the store said of a file that this peer alone sent, in n bytes.
func (s *source) verdict(i int, n int64, err error) {
	switch {
	case err == nil:
		s.t.finish(s.peer, i, n)
	case errors.Is(err, modzip.ErrBadFile):
		err = s.lie(fmt.Errorf("%s of %v: %w", s.t.sched.items[i].file.Name, s.t.req.Module, err))
		s.reject(i, n)
		s.cancel(err) // whatever else it sends is not worth the wait
	default:
		s.t.fail(fmt.Errorf("keep %s: %w", s.t.sched.items[i].file.Name, err))
	}
}

// reject puts file i back; n bytes of it were for nothing.
func (s *source) reject(i int, n int64) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Wasted += n
	t.sched.again(i)
	t.wake()
}

// largeCharge is what a large file counts for against maxBuffered while the store
// makes up its mind: the next one arrives meanwhile.
const largeCharge = maxBuffered / 4

// receiveLarge hands a file to the store while it arrives. When the stream
// breaks, what came in stays, and another peer goes on from there.
func (s *source) receiveLarge(i int, raw modzip.Raw) error {
	j, err := s.joint(i, raw)
	if err != nil {
		return err
	}
	err = j.copy(s.peer, s.l.r, func(n int) { s.count(int64(n)) })
	t := s.t
	t.mu.Lock()
	j.busy = false
	if errors.Is(err, errAbandoned) {
		t.mu.Unlock() // the rest is asked of others when this worker is taken out
		return err
	}
	t.sched.items[i].part = nil
	t.sched.arrived(s.peer, i)
	if j.runs > 1 {
		t.stats.Resumed++
	}
	unread := raw.CompressedSize - j.off.Load()
	t.mu.Unlock()
	if unread > 0 {
		s.judge(i, raw, j)
		return errRestart // the store did not want the rest, but the peer still sends it
	}
	if err := t.buffers.Acquire(s.ctx, largeCharge); err != nil {
		s.judge(i, raw, j)
		return context.Cause(s.ctx)
	}
	t.workers.Add(1) // as in receiveSmall
	judge := func() {
		defer t.workers.Done()
		defer t.buffers.Release(largeCharge)
		s.judge(i, raw, j)
	}
	if !t.x.start(judge) {
		judge()
		return ErrClosed
	}
	return nil
}

// judge waits for what the store says of a large file that has arrived.
func (s *source) judge(i int, raw modzip.Raw, j *joint) {
	t, err := s.t, j.verdict(nil)
	if errors.Is(err, modzip.ErrBadFile) && len(j.from) > 1 {
		// Its parts came from several peers, and nobody can tell whose was bad.
		t.x.log.Info("a file put together from several peers does not check; it is fetched again",
			"file", t.sched.items[i].file.Name, "peers", j.from)
		s.reject(i, raw.CompressedSize)
		return
	}
	s.verdict(i, raw.CompressedSize, err)
}

// joint returns where file i goes: into the store from the start, or after what
// is there already.
func (s *source) joint(i int, raw modzip.Raw) (*joint, error) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	it := &t.sched.items[i]
	offset := s.offsets[i]
	switch j := it.part; {
	case it.done || (j != nil && j.busy):
		// Another peer was faster. To read on only to find the next file would
		// cost more than a new stream.
		return nil, errRestart
	case j != nil && j.raw != raw:
		it.part = nil
		j.abandon() // this peer has another encoding of the same file
		return nil, errRestart
	case j != nil && j.off.Load() != offset:
		return nil, errRestart // it was asked before the other peer broke off
	case j == nil && offset != 0:
		return nil, errRestart
	case j != nil:
		j.busy = true
		j.runs++
		return j, nil
	}
	j, err := t.x.newJoint(t.x.ctx, raw)
	if err != nil {
		return nil, err
	}
	j.busy, j.runs = true, 1
	it.part = j
	return j, nil
}
