package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

var (
	errAbsent  = errors.New("peer does not hold the release")
	errBusy    = errors.New("peer is busy")
	errRestart = errors.New("stream is to be opened anew")
	errDry     = errors.New("peer has nothing of use for now")
	errLie     = errors.New("peer sent what it was not asked for")
)

// source is one peer that a transfer gets files from, and the stream to it. Only
// one goroutine uses it at a time.
type source struct {
	t        *Transfer
	peer     peer.ID
	ctx      context.Context
	cancel   context.CancelCauseFunc // resets the stream
	l        *link
	stop     func(error)
	restarts int
	lied     sync.Once
	opened   *filesOpened // nil until it was read
	offsets  map[int]int64
	base     *base // the one that the peer chose of those offered; nil is none

	text         []byte
	listing      verify.Listing
	listingBytes int64
	delivered    bool // bytes of files

	mayLead  bool   // files may follow the listing unasked
	lead     uint32 // those that are still to come
	ledBytes uint64 // of those that came

	told   bool      // the peer says what it has when it is asked
	asking bool      // it was asked, and has not answered
	askAt  time.Time // when it may be asked next
	dry    int       // answers to that, in a row, with which there was nothing to do

	busySince time.Time // of what is outstanding now; zero is idle
	got       int64     // bytes since then
}

func (t *Transfer) newSource(ctx context.Context, p peer.ID) *source {
	s := &source{t: t, peer: p, offsets: map[int]int64{}}
	t.mu.Lock()
	s.restarts = t.restarts[p]
	t.mu.Unlock()
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

// end closes the stream, or resets it after an error.
func (s *source) end(err error) {
	if s.stop != nil {
		s.stop(err)
		s.stop = nil
	}
	s.cancel(err)
}

// open opens the stream. If the listing is wanted, it waits for it and checks
// it; otherwise it waits for nothing, so that requests can follow at once.
func (s *source) open(wantListing bool) (err error) {
	defer func() {
		if err != nil {
			s.end(err)
		}
	}()
	leave, err := s.t.x.files.take(s.ctx, s.peer)
	if err != nil {
		return err
	}
	context.AfterFunc(s.ctx, leave) // it ends with the source, however that does
	if s.l, s.stop, err = s.t.x.ask(s.ctx, s.peer, FilesID, s.t.req.Class); err != nil {
		return err
	}
	m := filesOpen{
		Path: s.t.req.Module.Path, Version: s.t.req.Module.Version,
		Root: s.t.req.Root[:], Class: s.t.req.Class, Listing: wantListing,
		Trace: s.l.traceparent(),
		// Bundles spare the line a few percent, and cost both ends more processor time
		// than the files do. Between neighbours the line is not what is waited for.
		Bundles: !s.t.x.health.near(s.peer),
	}
	for _, b := range s.t.req.Bases[:min(len(s.t.req.Bases), maxBases)] {
		m.Bases, m.Diffs = append(m.Bases, b[:]), true
	}
	if s.mayLead = wantListing && s.t.req.Class == Client && len(s.t.req.Bases) == 0; s.mayLead {
		m.Lead = maxLead
	}
	if err := s.l.send(&m, maxOpen); err != nil {
		return err
	}
	if !wantListing {
		return nil
	}
	if err := s.l.flush(); err != nil {
		return err
	}
	start := time.Now()
	s.l.dripping = true
	reply, err := s.recvOpened()
	if err != nil {
		return err
	}
	s.t.x.health.answered(s.peer, time.Since(start))
	return s.recvListing(reply)
}

func (s *source) recvOpened() (*filesOpened, error) {
	var m filesOpened
	if err := s.l.recv(&m, maxOpen); err != nil {
		if s.ctx.Err() == nil {
			s.t.x.health.failed(s.peer)
		}
		return nil, fmt.Errorf("%v: %w", s.peer, noEOF(err))
	}
	s.opened = &m
	switch m.Status {
	case filesReady, filesPartial:
		if err := s.agreeLead(m.Lead); err != nil {
			return nil, err
		}
		return &m, s.agree(m.Base)
	case filesAbsent:
		s.t.x.holders.drop(s.t.req.Root, s.peer)
		return nil, fmt.Errorf("%v: %w", s.peer, errAbsent)
	case filesBusy:
		return nil, fmt.Errorf("%v: %w", s.peer, errBusy)
	}
	return nil, fmt.Errorf("%v: status %d: %w", s.peer, m.Status, errLie)
}

// agree notes the release that the peer chose of those that were offered.
func (s *source) agree(root []byte) error {
	if len(root) == 0 {
		return nil
	}
	i := slices.IndexFunc(s.t.req.Bases, func(d verify.Digest) bool { return bytes.Equal(d[:], root) })
	if i < 0 {
		return s.lie(fmt.Errorf("base %x, which was not offered: %w", root, errLie))
	}
	text, err := s.t.x.cfg.Backend.Listing(s.t.req.Bases[i])
	if err != nil {
		return fmt.Errorf("listing %v, offered as a dictionary: %w", s.t.req.Bases[i], err)
	}
	s.base = &base{text: text}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (s *source) recvListing(m *filesOpened) error {
	if m.Frame > maxListingFrame || m.Size > verify.MaxListing {
		return s.lie(fmt.Errorf("listing of %d bytes in a frame of %d: %w", m.Size, m.Frame, errLie))
	}
	frame, err := io.ReadAll(io.LimitReader(s.l.r, int64(m.Frame)))
	if err != nil {
		return err
	}
	if uint64(len(frame)) < m.Frame {
		return io.ErrUnexpectedEOF
	}
	var dict []byte
	if s.base != nil {
		dict = s.base.text
	}
	if s.text, err = unpackListing(frame, dict, m.Size); err != nil {
		return s.lie(err)
	}
	if got := verify.DigestOf(s.text); got != s.t.req.Root {
		return s.lie(fmt.Errorf("listing has digest %v, want %v: %w", got, s.t.req.Root, errLie))
	}
	s.listingBytes = int64(len(frame))
	s.listing, err = verify.ParseListing(s.text)
	return err
}

// lie notes that the peer lied, and returns err. However many bad files it sent
// at once, they count as one lie: a damaged disk is not worse than malice.
func (s *source) lie(err error) error {
	s.lied.Do(func() { s.t.x.liar(s.peer, err) })
	s.t.x.metrics.pulled.WithLabelValues("bad").Inc()
	return err
}

// work asks for files and receives them until there is nothing left to do.
func (s *source) work() error {
	if s.l == nil {
		if err := s.open(false); err != nil {
			return err
		}
	}
	s.l.dripping = true
	if s.opened == nil && s.t.waitsFor(s.peer) {
		if err := s.l.flush(); err != nil {
			return err
		}
		if _, err := s.recvOpened(); err != nil {
			return err
		}
	}
	if s.opened != nil {
		s.learn(s.opened.Holding)
	}
	for {
		more, idle, changed := s.next()
		if !more && !idle {
			return errNotNeeded // what is still on its way came from others
		}
		if !more {
			return nil
		}
		if idle {
			s.measure(time.Now(), true)
			if s.dry >= maxDry && s.t.replaceable(s.peer) {
				return errDry
			}
			if err := s.rest(changed); err != nil {
				return err
			}
			continue
		}
		if err := s.receive(); err != nil {
			if cause := context.Cause(s.ctx); cause != nil {
				return cause
			}
			if !errors.Is(err, errRestart) && !errors.Is(err, errLie) && !errors.Is(err, modzip.ErrBadFile) {
				s.t.x.health.failed(s.peer)
			}
			return err
		}
	}
}

// brokeOff reports whether err is the end of a stream that files came over: a
// connection that was lost, and may be there again. To be silent or slow is not.
func (s *source) brokeOff(err error) bool {
	for _, other := range []error{errLie, modzip.ErrBadFile, errTooSlow, errNotNeeded, errDry, ErrClosed, context.Canceled} {
		if errors.Is(err, other) {
			return false
		}
	}
	var late net.Error
	return err != nil && s.delivered && !(errors.As(err, &late) && late.Timeout())
}

// next asks for more files if it is time to. more is false when the transfer is
// over, idle is true when nothing is outstanding.
func (s *source) next() (more, idle bool, changed chan struct{}) {
	t := s.t
	now := time.Now()
	t.mu.Lock()
	var batch []int
	more = t.sched.left > 0 && t.failed == nil && s.ctx.Err() == nil
	if more {
		batch = t.sched.take(s.peer, now)
	}
	idle = len(t.sched.peers[s.peer].asked) == 0
	if more && idle {
		t.relieve(s.peer, now)
		t.noteStuck()
	}
	changed = t.changed
	wants := t.wants(s, batch)
	t.mu.Unlock()
	if more && s.told && !s.asking && (idle || len(batch) > 0) && now.After(s.askAt) {
		wants = append([]filesWant{{Tell: true}}, wants...)
		s.asking, s.askAt = true, now.Add(tellEvery)
		s.dry++
		s.l.windowStart, s.l.windowBytes = now, 0
	}
	if len(batch) > 0 {
		s.dry = 0
	}
	idle = idle && !s.asking
	if !more {
		return false, idle, changed
	}
	if len(batch) > 0 && s.busySince.IsZero() {
		s.busySince, s.got = now, 0
		s.l.windowStart, s.l.windowBytes = now, 0
	}
	for _, w := range wants {
		// An error to write shows when reading, too.
		if s.l.send(&w, maxWantMsg) != nil || s.l.flush() != nil {
			break
		}
	}
	return true, idle, changed
}

// noteStuck tells the supervisor when nobody has anything to send of what is left;
// the caller holds mu. Workers without work do not end by themselves: there may be
// something to take over.
func (t *Transfer) noteStuck() {
	if !t.sched.idle() || !t.sched.stuck() {
		return
	}
	select {
	case t.stuck <- struct{}{}:
	default: // it was told
	}
}

// relieve takes out a peer that is slow with a large file, if p is much faster;
// the caller holds mu.
func (t *Transfer) relieve(p peer.ID, now time.Time) {
	if q, ok := t.sched.slow(p, now); ok {
		t.sources[q].cancel(errNotNeeded)
	}
}

// wants makes messages of a batch; the caller holds mu. Files of which some is
// here already get a message of their own, with the offset, and so do those that are
// not to come as a difference.
func (t *Transfer) wants(s *source, batch []int) []filesWant {
	var all []filesWant
	var plain filesWant
	flush := func() {
		if len(plain.Files) > 0 {
			all = append(all, plain)
		}
		plain = filesWant{}
	}
	for _, i := range batch {
		it := &t.sched.items[i]
		delete(s.offsets, i)
		switch {
		case it.part != nil:
			flush()
			s.offsets[i] = it.part.off.Load()
			all = append(all, filesWant{Files: []uint32{it.line}, Offset: uint64(s.offsets[i])})
		case it.whole:
			flush()
			all = append(all, filesWant{Files: []uint32{it.line}, Whole: true})
		default:
			plain.Files = append(plain.Files, it.line)
		}
	}
	flush()
	return all
}

// rest waits until there may be something to do.
func (s *source) rest(changed <-chan struct{}) error {
	s.busySince = time.Time{}
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	return nil
}

// measure tells how fast the peer delivers, now and then or when last is set.
func (s *source) measure(now time.Time, last bool) {
	if s.busySince.IsZero() || (!last && now.Sub(s.busySince) < time.Second) {
		return
	}
	s.t.x.health.delivered(s.peer, s.got, now.Sub(s.busySince))
	s.busySince, s.got = now, 0
}

// receive takes the next file that is outstanding.
func (s *source) receive() error {
	if s.opened == nil {
		if _, err := s.recvOpened(); err != nil {
			return err
		}
		s.learn(s.opened.Holding)
	}
	var head fileHead
	if err := s.l.recv(&head, maxHead); err != nil {
		return noEOF(err)
	}
	if done, err := s.led(&head); done || err != nil {
		return err
	}
	if head.Holding != nil && s.asking {
		s.asking = false
		s.learn(head.Holding)
		return nil
	}
	if len(head.Lines) > 0 {
		return s.receiveBundle(&head)
	}
	t := s.t
	t.mu.Lock()
	if len(t.sched.peers[s.peer].asked) == 0 {
		t.mu.Unlock()
		return s.lie(fmt.Errorf("line %d came when none was due: %w", head.Index, errLie))
	}
	i := t.sched.peers[s.peer].asked[0]
	it := t.sched.items[i]
	if it.line == head.Index && head.Missing {
		t.sched.lacking(s.peer, i)
		t.wake()
		t.mu.Unlock()
		return nil
	}
	t.mu.Unlock()
	if it.line != head.Index {
		return s.lie(fmt.Errorf("line %d came where %d was due: %w", head.Index, it.line, errLie))
	}
	if head.From > 0 {
		return s.receiveDiff(i, &head)
	}
	raw := modzip.Raw{Sum: it.file.Sum, Method: head.Method, CRC32: head.CRC32,
		CompressedSize: int64(min(head.Packed, 1<<62)), Size: int64(min(head.Size, 1<<62))}
	if err := raw.Check(); err != nil {
		return s.lie(err)
	}
	if raw.CompressedSize >= largeFile {
		return s.receiveLarge(i, raw)
	}
	return s.receiveSmall(i, raw)
}

// count notes that n bytes of a raw stream came in.
func (s *source) count(n int64) {
	now := time.Now()
	s.got += n
	s.delivered = true
	s.measure(now, false)
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.t.sched.received(s.peer, n, now)
}
