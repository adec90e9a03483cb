package exchange

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// Class says who waits for a transfer. Under a bandwidth limit, a lower class
// gives way to a higher one.
type Class uint8

// Classes, most urgent first.
const (
	Client     Class = iota // a client waits for it
	Prefetch                // a client may soon ask for it
	Background              // replicas and repair
)

// Bandwidth limits a direction, in bytes a second; 0 is no limit.
type Bandwidth struct {
	Total   int64 // of all peers together
	PerPeer int64
}

// MinBandwidth is the least limit that transfers can live with: several share it, and
// who hears nothing for ioTimeout, or gets rid of nothing for sendTimeout, gives up.
const MinBandwidth = 8 * minRate

// paceChunk is the most that is written or accounted for at once. It is also the
// burst of each limiter, so a limit is held over any span longer than the time
// that this much takes.
const paceChunk = 64 << 10

// lowShare is the part of a limit that classes below Client get while a transfer
// of class Client is under way: one in lowShare.
const lowShare = 8

// limits hands out paces. All of them share the limiters of all peers together.
type limits struct {
	up, down   direction
	mu         sync.Mutex // guards perPeer of both directions
	upAll      Bandwidth
	downAll    Bandwidth
	clients    atomic.Int64 // transfers of class Client under way
	sent, recd atomic.Uint64
}

type direction struct {
	total, low *rate.Limiter
	perPeer    map[peer.ID]share
}

// share is what one peer may have, and the part of it that is for classes below
// Client while a client waits; nil is no limit. It counts what the peer had.
type share struct {
	all, low *rate.Limiter
	had      *atomic.Uint64 // bytes
}

func newShare(perSecond int64) share {
	s := share{had: new(atomic.Uint64)}
	if perSecond > 0 {
		s.all = rate.NewLimiter(rate.Limit(perSecond), paceChunk)
		s.low = rate.NewLimiter(rate.Limit(max(perSecond/lowShare, 1)), paceChunk)
	}
	return s
}

func newDirection(b Bandwidth) direction {
	all := newShare(b.Total)
	return direction{total: all.all, low: all.low, perPeer: map[peer.ID]share{}}
}

func newLimits(up, down Bandwidth) *limits {
	return &limits{up: newDirection(up), down: newDirection(down), upAll: up, downAll: down}
}

// pace is what one stream waits on before it writes, and after it reads.
type pace struct {
	l        *limits
	class    Class
	part     int // bytes to write at once, so that no part takes long
	upPeer   share
	downPeer share
}

func (l *limits) of(p peer.ID, class Class) *pace {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &pace{
		l: l, class: class, part: l.upAll.part(class),
		upPeer:   l.up.peer(p, l.upAll.PerPeer),
		downPeer: l.down.peer(p, l.downAll.PerPeer),
	}
}

// part is what takes an eighth of a second at the slowest that a class may have to
// go: other streams wait as well, and a receiver takes ioTimeout of silence for the
// end.
func (b Bandwidth) part(class Class) int {
	part := int64(paceChunk)
	for _, perSecond := range []int64{b.Total, b.PerPeer} {
		if class != Client {
			perSecond /= lowShare
		}
		if perSecond > 0 {
			part = min(part, max(perSecond/8, minPart))
		}
	}
	return int(part)
}

// minPart is the least that is written at once.
const minPart = 1 << 10

// peer returns the limiter of one peer. There are as many as members, so none is
// dropped.
func (d *direction) peer(p peer.ID, perSecond int64) share {
	s, ok := d.perPeer[p]
	if !ok {
		s = newShare(perSecond)
		d.perPeer[p] = s
	}
	return s
}

// had is how many bytes were sent to a peer and received from it.
func (l *limits) had(p peer.ID) (sent, received uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := l.up.perPeer[p]; ok {
		sent = s.had.Load()
	}
	if s, ok := l.down.perPeer[p]; ok {
		received = s.had.Load()
	}
	return sent, received
}

// client marks a transfer of class Client as under way until end is called.
func (l *limits) client() (end func()) {
	l.clients.Add(1)
	return sync.OnceFunc(func() { l.clients.Add(-1) })
}

func (p *pace) up(ctx context.Context, n int) error {
	p.l.sent.Add(uint64(n))
	p.upPeer.had.Add(uint64(n))
	return p.wait(ctx, n, &p.l.up, p.upPeer)
}

func (p *pace) down(ctx context.Context, n int) error {
	p.l.recd.Add(uint64(n))
	p.downPeer.had.Add(uint64(n))
	return p.wait(ctx, n, &p.l.down, p.downPeer)
}

func (p *pace) wait(ctx context.Context, n int, d *direction, own share) error {
	limiters := []*rate.Limiter{own.all, d.total}
	if p.class != Client && p.l.clients.Load() > 0 {
		limiters = []*rate.Limiter{own.low, d.low, own.all, d.total}
	}
	for _, l := range limiters {
		if err := waitN(ctx, l, n); err != nil {
			return err
		}
	}
	return nil
}

func waitN(ctx context.Context, l *rate.Limiter, n int) error {
	if l == nil {
		return nil
	}
	for n > 0 {
		part := min(n, paceChunk)
		if err := l.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
