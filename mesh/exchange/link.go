package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"go.opentelemetry.io/otel/trace"
)

// Time limits of streams.
const (
	ioTimeout   = 5 * time.Second         // silence on any stream but a claim's
	sendTimeout = time.Minute             // until a receiver of files takes more: it may have a limit, and a window of megabytes to fill
	dialTimeout = 1500 * time.Millisecond // to reach a member that is not connected
	openTimeout = 2 * time.Second         // to open a stream on a connection
)

// minRate is the least that a peer must deliver, in bytes over rateWindow, while
// it is waited for; below that it counts as stalled however steadily it drips.
const (
	minRate    = 8 << 10
	rateWindow = 10 * time.Second
)

// Buffers of a link, each way. Where files go it is what yamux sends in one frame at
// most; questions and answers are small, and a question goes to many.
const (
	linkBuffer  = 64 << 10
	smallBuffer = 4 << 10
)

var errTooSlow = errors.New("peer delivers too slowly")

// link is one stream with framed messages on it. Reads end after idle without a
// byte, and writes after patience. One goroutine may read while another writes.
type link struct {
	s    network.Stream
	r    *bufio.Reader
	w    *bufio.Writer
	idle time.Duration // of reads; set it while nobody reads
	pace *pace         // bandwidth limits; never nil
	ctx  context.Context
	span trace.Span // nil: nobody traces what the stream is for

	patience time.Duration // of writes; set it while nobody writes

	windowStart time.Time
	windowBytes int
	dripping    bool // enforce minRate
}

// newLink is the link over s, whose own protocol may have a prefix of the mesh's.
func newLink(ctx context.Context, s network.Stream, proto protocol.ID, p *pace) *link {
	l := &link{s: s, idle: ioTimeout, patience: ioTimeout, pace: p, ctx: ctx}
	size := smallBuffer
	if proto == FilesID {
		size = linkBuffer
	}
	l.r = bufio.NewReaderSize(linkReader{l}, size)
	l.w = bufio.NewWriterSize(linkWriter{l}, size)
	return l
}

type linkReader struct{ l *link }

func (r linkReader) Read(p []byte) (int, error) {
	l := r.l
	if err := l.s.SetReadDeadline(time.Now().Add(l.idle)); err != nil {
		return 0, err
	}
	n, err := l.s.Read(p)
	if n > 0 {
		if perr := l.pace.down(l.ctx, n); perr != nil {
			return n, perr
		}
	}
	if err == nil && l.dripping {
		err = l.checkRate(n)
	}
	return n, err
}

func (l *link) checkRate(n int) error {
	now := time.Now()
	if l.windowStart.IsZero() {
		l.windowStart = now
	}
	l.windowBytes += n
	if now.Sub(l.windowStart) < rateWindow {
		return nil
	}
	if l.windowBytes < minRate {
		return fmt.Errorf("%w: %d bytes in %v", errTooSlow, l.windowBytes, rateWindow)
	}
	l.windowStart, l.windowBytes = now, 0
	return nil
}

type linkWriter struct{ l *link }

func (w linkWriter) Write(p []byte) (int, error) {
	l := w.l
	written := 0
	for len(p) > 0 {
		part := p[:min(len(p), l.pace.part)]
		if err := l.pace.up(l.ctx, len(part)); err != nil {
			return written, err
		}
		if err := l.s.SetWriteDeadline(time.Now().Add(l.patience)); err != nil {
			return written, err
		}
		n, err := l.s.Write(part)
		written += n
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// send buffers one message of at most limit bytes; flush sends what is buffered.
func (l *link) send(v any, limit int) error {
	data, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	if len(data) > limit {
		return fmt.Errorf("send %T of %d bytes: at most %d allowed", v, len(data), limit)
	}
	return msgio.NewVarintWriter(l.w).WriteMsg(data)
}

func (l *link) flush() error { return l.w.Flush() }

// recv reads one message of at most limit bytes. It returns io.EOF when the
// other side has closed the stream between messages.
func (l *link) recv(v any, limit int) error {
	data, release, err := l.recvRaw(limit)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("receive %T: %w", v, err)
	}
	defer release()
	if err := decode(data, v); err != nil {
		return fmt.Errorf("decode %T of %d bytes: %w", v, len(data), err)
	}
	return nil
}

// largeMessage is the size of a message from which on memory is taken for what has come
// of it, and not for what its length says.
const largeMessage = 64 << 10

// recvRaw reads the bytes of one message, which are its caller's until release.
func (l *link) recvRaw(limit int) (data []byte, release func(), err error) {
	r := msgio.NewVarintReaderSize(l.r, limit)
	n, err := r.NextMsgLen()
	if err != nil {
		return nil, nil, err
	}
	if n <= largeMessage || n > limit {
		data, err = r.ReadMsg()
		return data, func() { r.ReleaseMsg(data) }, err
	}
	if data, err = io.ReadAll(io.LimitReader(l.r, int64(n))); err == nil && len(data) < n {
		err = io.ErrUnexpectedEOF
	}
	return data, func() {}, err
}

// ask opens a stream to a peer, and notes it when that fails. The stream is reset when
// ctx ends; stop releases that tie and closes or, after an error, resets the stream.
func (x *Exchange) ask(ctx context.Context, p peer.ID, proto protocol.ID, class Class) (l *link, stop func(error), err error) {
	l, stop, err = x.open(ctx, p, proto, class)
	if err != nil && ctx.Err() == nil && x.cfg.Members.IsMember(p) {
		x.health.failed(p)
	}
	return l, stop, err
}

// open is ask for a question whose failure says nothing of other questions.
func (x *Exchange) open(ctx context.Context, p peer.ID, proto protocol.ID, class Class) (l *link, stop func(error), err error) {
	if !x.cfg.Members.IsMember(p) {
		return nil, nil, fmt.Errorf("ask %v: not a member of this mesh", p)
	}
	span := x.asking(ctx, p, proto)
	octx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	octx = network.WithDialPeerTimeout(octx, dialTimeout)
	s, err := x.cfg.Host.NewStream(octx, p, proto)
	if err != nil {
		endSpan(ctx, span, err)
		return nil, nil, fmt.Errorf("ask %v: %w", p, err)
	}
	x.metrics.streams.WithLabelValues(string(proto)).Inc()
	unhook := context.AfterFunc(ctx, func() { s.Reset() })
	stop = func(err error) {
		if !unhook() || err != nil || s.Close() != nil {
			s.Reset()
		}
		endSpan(ctx, span, err)
	}
	l = newLink(ctx, s, proto, x.limits.of(p, class))
	l.span = span
	return l, stop, nil
}
