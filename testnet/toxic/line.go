package toxic

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// What passes a line at once: as much as it carries in burstTime, so that late timers
// do not slow it, within these bounds in bytes.
const (
	burstTime  = 20 * time.Millisecond
	leastBurst = 1500
	mostBurst  = 4 << 20
	// piece is what one connection passes on before another one has its turn.
	piece = 16 << 10
)

// line is one direction of a site's connection to all others.
type line struct{ limiter *rate.Limiter }

func newLine(bits int64) line {
	l := line{rate.NewLimiter(rate.Inf, leastBurst)}
	l.set(bits)
	return l
}

// set changes what the line carries in a second; 0 is no limit.
func (l line) set(bits int64) {
	if bits <= 0 {
		l.limiter.SetLimit(rate.Inf)
		return
	}
	perSecond := float64(bits) / 8
	l.limiter.SetBurst(int(min(max(perSecond*burstTime.Seconds(), leastBurst), mostBurst)))
	l.limiter.SetLimit(rate.Limit(perSecond))
}

// most is how many of n bytes the line takes at once.
func (l line) most(n int) int {
	if l.limiter.Limit() == rate.Inf {
		return n
	}
	return min(n, l.limiter.Burst())
}

// passage is the way of a connection's bytes in one direction: they leave by the line
// of one site, come in by that of another, and are counted.
type passage struct {
	ctx      context.Context // ends with the network
	to       io.Writer
	up, down line
	count    *atomic.Int64
}

// Write implements io.Writer.
func (p passage) Write(data []byte) (done int, err error) {
	for done < len(data) {
		n := p.down.most(p.up.most(min(len(data)-done, piece)))
		if p.up.limiter.WaitN(p.ctx, n) != nil || p.down.limiter.WaitN(p.ctx, n) != nil {
			if p.ctx.Err() != nil {
				return done, p.ctx.Err()
			}
			continue // the line has become narrower meanwhile
		}
		p.count.Add(int64(n)) // first: who has got something finds it counted
		sent, err := p.to.Write(data[done : done+n])
		p.count.Add(int64(sent - n))
		done += sent
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
