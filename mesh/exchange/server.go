package exchange

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// protocols lists what is answered, with the number of streams that one peer,
// and all peers together, may have open. A claim is a stream that waits, so
// there are many of them and each is cheap.
var protocols = []struct {
	id          protocol.ID
	peer, total int
	answer      func(*Exchange, context.Context, peer.ID, *link) error
}{
	{RecordsID, 32, 512, (*Exchange).answerRecords},
	{PushID, 8, 128, (*Exchange).answerPush},
	{FilesID, 96, 512, (*Exchange).answerFiles},
	{ClaimID, 512, 8192, (*Exchange).answerClaim},
	{AnswersID, 64, 1024, (*Exchange).answerAnswers},
}

// gate counts the streams of one protocol.
type gate struct {
	perPeer, total int

	mu   sync.Mutex // guards what follows
	all  int
	open map[peer.ID]int
}

func (g *gate) enter(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= g.total || g.open[p] >= g.perPeer {
		return false
	}
	g.all++
	g.open[p]++
	return true
}

func (g *gate) leave(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.open[p]--; g.open[p] == 0 {
		delete(g.open, p)
	}
}

// serve registers the handlers.
func (x *Exchange) serve() {
	for _, p := range protocols {
		g := &gate{perPeer: p.peer, total: p.total, open: map[peer.ID]int{}}
		x.cfg.Host.SetStreamHandler(p.id, func(s network.Stream) {
			if !x.start(func() { x.handle(g, s, p.id, p.answer) }) {
				s.Reset()
			}
		})
	}
}

// handle answers one stream. A stream from anybody but a member, or above the
// limits, is reset without an answer: the other side goes to another peer.
func (x *Exchange) handle(g *gate, s network.Stream, proto protocol.ID, answer func(*Exchange, context.Context, peer.ID, *link) error) {
	from := s.Conn().RemotePeer()
	if !x.cfg.Members.IsMember(from) {
		s.Reset()
		return
	}
	if !g.enter(from) {
		x.metrics.turnedAway.WithLabelValues(string(s.Protocol())).Inc()
		s.Reset()
		return
	}
	defer g.leave(from)
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Reset() })()
	l := newLink(ctx, s, proto, x.limits.of(from, Client))
	err := answer(x, ctx, from, l)
	endSpan(ctx, l.span, err)
	if err != nil {
		s.Reset()
		if !errors.Is(err, io.EOF) && ctx.Err() == nil {
			x.log.Debug("stream ended early", "protocol", s.Protocol(), "peer", from, "err", err)
		}
		return
	}
	if l.flush() != nil || s.Close() != nil {
		s.Reset()
	}
}
