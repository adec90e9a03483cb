package wan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// ErrUnavailable is returned where the machine cannot emulate a network; the
// error that wraps it says what is missing.
var ErrUnavailable = errors.New("no emulated network here")

// Path says what happens to packets from one site to another. The zero value is
// a path without any fault or delay.
type Path struct {
	Latency time.Duration // one way
	Jitter  time.Duration // up to so much is added to Latency; the order stays
	Loss    float64       // part of the packets that vanish, 0 to 1
	Reorder float64       // part of the packets that are overtaken by later ones, 0 to 1
}

// overtaken is how much later a packet comes that others overtake.
const overtaken = 10 * time.Millisecond

// bufferTime is how long a packet may at least wait at the end of a line before it is
// dropped. It is more where paths are longer, see Network.patience.
const bufferTime = 100 * time.Millisecond

// line is one direction of a site's connection to the network.
type line struct {
	rate int64     // bits a second; 0 is no limit
	free time.Time // when the last packet has left
}

// pass returns when a packet of size bytes that comes at now has passed the
// line, or false if the line's buffer is full: it would wait longer than patience.
func (l *line) pass(now time.Time, size int, patience time.Duration) (time.Time, bool) {
	if l.rate == 0 {
		return now, true
	}
	if l.free.Before(now) {
		l.free = now
	}
	if l.free.Sub(now) > patience {
		return time.Time{}, false
	}
	l.free = l.free.Add(time.Duration(int64(size) * 8 * int64(time.Second) / l.rate))
	return l.free, true
}

// leastRate is what a line carries at least, in bits a second: enough for a mesh to
// hold together.
const leastRate = 10_000

// ParseRate reads bits a second as people write them: 100mbit, 1gbit, 2.5mbit.
func ParseRate(text string) (int64, error) {
	const most = 1 << 50
	amount, isBits := strings.CutSuffix(strings.ToLower(text), "bit")
	bits, err := humanize.ParseBytes(amount + "b") // the same prefixes, whatever they count
	if !isBits || err != nil || bits < leastRate || bits > most {
		return 0, fmt.Errorf("%q: want bits a second, at least %dkbit: 100mbit, 1gbit", text, leastRate/1000)
	}
	return int64(bits), nil
}

// FormatRate writes bits a second so that ParseRate reads them.
func FormatRate(bits int64) string {
	amount, prefix := humanize.ComputeSI(float64(bits))
	return strings.ToLower(humanize.Ftoa(amount) + prefix + "bit")
}

// lane is one direction between two sites.
type lane struct {
	path    Path
	own     bool // path is not the usual one
	cut     bool
	last    time.Time // when the last packet that was not held back arrives
	traffic Traffic
}

// arrival returns when a packet that leaves at now arrives, or false if it never
// does.
func (l *lane) arrival(now time.Time, rng *rand.Rand) (time.Time, bool) {
	p := l.path
	if l.cut || p.Loss > 0 && rng.Float64() < p.Loss {
		return time.Time{}, false
	}
	at := now.Add(p.Latency)
	if p.Jitter > 0 {
		at = at.Add(time.Duration(rng.Int64N(int64(p.Jitter))))
	}
	if p.Reorder > 0 && rng.Float64() < p.Reorder {
		return at.Add(overtaken), true
	}
	if at.Before(l.last) {
		at = l.last
	}
	l.last = at
	return at, true
}

// Traffic is what went from one site to another so far: IP packets, and their
// bytes with headers.
type Traffic struct {
	From, To *Site
	Packets  int64 // delivered
	Bytes    int64 // delivered
	Dropped  int64 // packets: lost, cut, or too many for a buffer
}
