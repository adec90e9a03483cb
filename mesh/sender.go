package mesh

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio/pbio"
)

// Limits of the DHT's messages.
const (
	maxIdleStreams = 8 // kept open to one peer
	maxDHTMessage  = 1 << 20
	// streamIdle is how long a stream is kept that nobody uses. Each holds buffers and
	// goroutines at both ends, and a quiet member needs none.
	streamIdle = 10 * time.Second
	rpcTime    = 3 * time.Second
)

// sender sends the DHT's messages over a pool of streams for each peer. The one
// of kad-dht has one stream, hence one question at a time, for each: 200 lookups
// at 40 ms take it seconds.
type sender struct {
	host      host.Host
	protocols []protocol.ID

	mu     sync.Mutex // guards idle, closed
	idle   map[peer.ID][]*rpcStream
	closed bool
}

var _ pb.MessageSenderWithDisconnect = (*sender)(nil)

type rpcStream struct {
	network.Stream
	r   pbio.ReadCloser
	buf *bufio.Writer
	w   pbio.WriteCloser
	end *time.Timer // drops it from the pool; nil until it was there
}

func newSender(h host.Host, ids []protocol.ID) *sender {
	return &sender{host: h, protocols: ids, idle: map[peer.ID][]*rpcStream{}}
}

// SendRequest sends a message and waits for the answer.
func (s *sender) SendRequest(ctx context.Context, p peer.ID, m *pb.Message) (*pb.Message, error) {
	start := time.Now()
	answer := new(pb.Message)
	if err := s.exchange(ctx, p, m, answer); err != nil {
		return nil, fmt.Errorf("ask %s: %w", p, err)
	}
	s.host.Peerstore().RecordLatency(p, time.Since(start))
	return answer, nil
}

// SendMessage sends a message that has no answer.
func (s *sender) SendMessage(ctx context.Context, p peer.ID, m *pb.Message) error {
	if err := s.exchange(ctx, p, m, nil); err != nil {
		return fmt.Errorf("tell %s: %w", p, err)
	}
	return nil
}

// exchange uses an idle stream if there is one, and a fresh one if that has died
// in the meantime.
func (s *sender) exchange(ctx context.Context, p peer.ID, m, answer *pb.Message) error {
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	if st := s.take(p); st != nil {
		if err := s.once(ctx, p, st, m, answer); err == nil || ctx.Err() != nil {
			return err
		}
	}
	raw, err := s.host.NewStream(ctx, p, s.protocols...)
	if err != nil {
		return err
	}
	buf := bufio.NewWriter(raw)
	st := &rpcStream{Stream: raw, r: pbio.NewDelimitedReader(raw, maxDHTMessage), buf: buf, w: pbio.NewDelimitedWriter(buf)}
	return s.once(ctx, p, st, m, answer)
}

func (s *sender) once(ctx context.Context, p peer.ID, st *rpcStream, m, answer *pb.Message) error {
	stop := context.AfterFunc(ctx, func() { st.Reset() })
	err := st.w.WriteMsg(m)
	if err == nil {
		err = st.buf.Flush()
	}
	if err == nil && answer != nil {
		err = st.r.ReadMsg(answer)
	}
	if !stop() || err != nil {
		st.Reset()
		if err == nil {
			err = ctx.Err()
		}
		return err
	}
	s.put(p, st)
	return nil
}

func (s *sender) take(p peer.ID) *rpcStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	pool := s.idle[p]
	if len(pool) == 0 {
		return nil
	}
	st := pool[len(pool)-1]
	s.drop(p, st)
	return st
}

// drop takes a stream out of the pool, and reports whether it was there. The caller
// holds mu.
func (s *sender) drop(p peer.ID, st *rpcStream) bool {
	i := slices.Index(s.idle[p], st)
	if i < 0 {
		return false
	}
	st.end.Stop()
	if s.idle[p] = slices.Delete(s.idle[p], i, i+1); len(s.idle[p]) == 0 {
		delete(s.idle, p)
	}
	return true
}

// expire closes a stream that has waited for long.
func (s *sender) expire(p peer.ID, st *rpcStream) {
	s.mu.Lock()
	dropped := s.drop(p, st)
	s.mu.Unlock()
	if dropped {
		st.Close()
	}
}

func (s *sender) put(p peer.ID, st *rpcStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.idle[p]) >= maxIdleStreams || st.Conn().IsClosed() {
		st.Close()
		return
	}
	s.idle[p] = append(s.idle[p], st)
	st.end = time.AfterFunc(streamIdle, func() { s.expire(p, st) })
}

// OnDisconnect drops the streams of a peer that is gone.
func (s *sender) OnDisconnect(_ context.Context, p peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.idle[p] {
		st.end.Stop()
		st.Reset()
	}
	delete(s.idle, p)
}

// close drops all streams.
func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, pool := range s.idle {
		for _, st := range pool {
			st.end.Stop()
			st.Reset()
		}
	}
	clear(s.idle)
}
