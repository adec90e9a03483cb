package sim

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// window is how much may be on its way to a reader, in bytes.
const window = 4 << 20

// errClosed is what using one's own closed side gives.
var errClosed = errors.New("stream is closed")

// stream is one end of a stream.
type stream struct {
	network.Stream
	host  *Host
	other *stream
	proto protocol.ID
	count *counter
	in    *pipe // the other end's out
	out   *pipe
	done  sync.Once

	mu        sync.Mutex // guards what follows
	err       error      // of both directions, once reset
	readBy    time.Time
	writeBy   time.Time
	readDone  bool // closed on this side
	writeDone bool
}

// pipe is one direction of a stream. Its channels wake the one reader and the one
// writer that there may be.
type pipe struct {
	to         *Host
	wake, room chan struct{} // capacity 1

	mu      sync.Mutex // guards what follows
	packets []packet
	size    int       // bytes in packets
	ended   bool      // the writer has closed it,
	endAt   time.Time // and the reader knows from then on
	deaf    bool      // the reader has closed it
}

type packet struct {
	at   time.Time // when it is there
	in   bool      // it came through the reader's line, and at says when; else it reaches that line then
	data []byte
}

func newPipe(to *Host) *pipe {
	return &pipe{to: to, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// newStreams makes both ends.
func newStreams(a, b *Host, id protocol.ID) (here, there *stream) {
	ab, ba := newPipe(b), newPipe(a)
	count := a.net.counter(id)
	here = &stream{host: a, proto: id, count: count, in: ba, out: ab}
	there = &stream{host: b, proto: id, count: count, in: ab, out: ba}
	here.other, there.other = there, here
	if !a.track(here) {
		here.fail(network.ErrReset)
	}
	return here, there
}

// arrive is when the other side hears of the stream.
func (s *stream) arrive() {
	if !s.host.track(s) {
		return // silent: who opened it will notice
	}
	if _, err := s.reading(); err != nil { // reset before it arrived
		s.host.untrack(s)
		return
	}
	f := s.host.handler(s.proto)
	if f == nil {
		s.Reset()
		return
	}
	f(s)
}

func (s *stream) Protocol() protocol.ID { return s.proto }

func (s *stream) Conn() network.Conn { return conn{remote: s.other.host.id} }

func (s *stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	s.readBy = t
	s.mu.Unlock()
	poke(s.in.wake)
	return nil
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	s.writeBy = t
	s.mu.Unlock()
	poke(s.out.room)
	return nil
}

func (s *stream) reading() (by time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.readDone {
		return s.readBy, errClosed
	}
	return s.readBy, s.err
}

func (s *stream) writing() (by time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.writeDone {
		return s.writeBy, errClosed
	}
	return s.writeBy, s.err
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for {
		by, err := s.reading()
		if err != nil {
			return 0, err
		}
		n, next, err := s.in.take(p)
		if n > 0 || err != nil {
			s.host.got.Add(uint64(n))
			return n, err
		}
		if err := await(s.in.wake, next, by); err != nil {
			return 0, err
		}
	}
}

// await returns when woken, at next, or with an error at the deadline; zero times
// never come.
func await(wake <-chan struct{}, next, by time.Time) error {
	now := time.Now()
	if !by.IsZero() && !now.Before(by) {
		return os.ErrDeadlineExceeded
	}
	first := next
	if first.IsZero() || (!by.IsZero() && by.Before(first)) {
		first = by
	}
	if first.IsZero() {
		<-wake
		return nil
	}
	t := time.NewTimer(first.Sub(now))
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	}
	return nil
}

// take reads what has arrived; next is when more will, as far as is known.
func (q *pipe) take(p []byte) (n int, next time.Time, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if len(q.packets) > 0 && !q.packets[0].in && !now.Before(q.packets[0].at) {
		first := &q.packets[0]
		first.in, first.at = true, q.to.down.use(q.to.net.takes(len(first.data)))
	}
	switch {
	case len(q.packets) > 0 && !now.Before(q.packets[0].at):
		first := &q.packets[0]
		n = copy(p, first.data)
		q.size -= n
		if first.data = first.data[n:]; len(first.data) == 0 {
			q.packets = q.packets[1:]
		}
		poke(q.room)
		return n, next, nil
	case len(q.packets) > 0:
		return 0, q.packets[0].at, nil
	case q.ended && !now.Before(q.endAt):
		return 0, next, io.EOF
	case q.ended:
		return 0, q.endAt, nil
	}
	return 0, next, nil
}

// Write implements io.Writer. It waits while the window is full.
func (s *stream) Write(p []byte) (int, error) {
	for {
		by, err := s.writing()
		if err != nil {
			return 0, err
		}
		if s.out.fits() {
			break
		}
		if err := await(s.out.room, time.Time{}, by); err != nil {
			return 0, err
		}
	}
	s.count.messages.Add(1)
	s.count.bytes.Add(uint64(len(p)))
	s.host.sent.Add(uint64(len(p)))
	at := s.host.net.reaches(s.host, s.other.host, len(p))
	s.out.put(packet{at: at, data: append([]byte(nil), p...)})
	return len(p), nil
}

func (q *pipe) fits() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size < window
}

func (q *pipe) put(p packet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.deaf {
		return
	}
	q.packets = append(q.packets, p)
	q.size += len(p.data)
	poke(q.wake)
}

// CloseWrite tells the other side that no more comes.
func (s *stream) CloseWrite() error {
	s.mu.Lock()
	err := s.err
	if err == nil && !s.writeDone {
		s.writeDone = true
		at := s.host.net.reaches(s.host, s.other.host, 0)
		s.out.mu.Lock()
		s.out.ended, s.out.endAt = true, at
		s.out.mu.Unlock()
		poke(s.out.wake)
	}
	s.mu.Unlock()
	return err
}

// CloseRead gives up what comes.
func (s *stream) CloseRead() error {
	s.mu.Lock()
	s.readDone = true
	s.mu.Unlock()
	s.in.drop()
	return nil
}

func (q *pipe) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deaf, q.packets, q.size = true, nil, 0
	poke(q.room)
	poke(q.wake)
}

// Close closes both directions.
func (s *stream) Close() error {
	err := s.CloseWrite()
	s.CloseRead()
	s.done.Do(func() { s.host.untrack(s) })
	return err
}

// Reset breaks the stream, on the other side as soon as that can be known there.
func (s *stream) Reset() error {
	if s.fail(network.ErrReset) && !s.host.gone.Load() {
		time.AfterFunc(s.host.net.latency(s.host, s.other.host), func() {
			if !s.other.host.gone.Load() {
				s.other.fail(network.ErrReset)
			}
		})
	}
	return nil
}

// ResetWithError is Reset: codes are not simulated.
func (s *stream) ResetWithError(network.StreamErrorCode) error { return s.Reset() }

// fail breaks this side, unless it was broken or is done with.
func (s *stream) fail(err error) (first bool) {
	s.mu.Lock()
	first = s.err == nil && !(s.readDone && s.writeDone)
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		s.in.drop()
		poke(s.out.room)
	}
	s.done.Do(func() { s.host.untrack(s) })
	return first
}
