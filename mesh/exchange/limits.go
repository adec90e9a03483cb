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

// MinBandwidth is the least limit that transfers can live with: a peer that is slower
// than minRate counts as stalled, and several may share a limit.
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
	perPeer    map[peer.ID]*rate.Limiter
}

func newDirection(b Bandwidth) direction {
	d := direction{perPeer: map[peer.ID]*rate.Limiter{}}
	if b.Total > 0 {
		d.total = rate.NewLimiter(rate.Limit(b.Total), paceChunk)
		d.low = rate.NewLimiter(rate.Limit(max(b.Total/lowShare, 1)), paceChunk)
	}
	return d
}

func newLimits(up, down Bandwidth) *limits {
	return &limits{up: newDirection(up), down: newDirection(down), upAll: up, downAll: down}
}

// pace is what one stream waits on before it writes, and after it reads.
type pace struct {
	l        *limits
	class    Class
	upPeer   *rate.Limiter
	downPeer *rate.Limiter
}

func (l *limits) of(p peer.ID, class Class) *pace {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &pace{
		l: l, class: class,
		upPeer:   l.up.peer(p, l.upAll.PerPeer),
		downPeer: l.down.peer(p, l.downAll.PerPeer),
	}
}

// peer returns the limiter of one peer. There are as many as members, so none is
// dropped.
func (d *direction) peer(p peer.ID, perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	if d.perPeer[p] == nil {
		d.perPeer[p] = rate.NewLimiter(rate.Limit(perSecond), paceChunk)
	}
	return d.perPeer[p]
}

// client marks a transfer of class Client as under way until end is called.
func (l *limits) client() (end func()) {
	l.clients.Add(1)
	return sync.OnceFunc(func() { l.clients.Add(-1) })
}

func (p *pace) up(ctx context.Context, n int) error {
	p.l.sent.Add(uint64(n))
	return p.wait(ctx, n, &p.l.up, p.upPeer)
}

func (p *pace) down(ctx context.Context, n int) error {
	p.l.recd.Add(uint64(n))
	return p.wait(ctx, n, &p.l.down, p.downPeer)
}

func (p *pace) wait(ctx context.Context, n int, d *direction, own *rate.Limiter) error {
	if p.class != Client && p.l.clients.Load() > 0 {
		if err := waitN(ctx, d.low, n); err != nil {
			return err
		}
	}
	if err := waitN(ctx, own, n); err != nil {
		return err
	}
	return waitN(ctx, d.total, n)
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
