package exchange

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// How long peers that a connection is open to may take beyond the budget: they live,
// or the connection would be gone soon, and may only be busy.
const (
	lastResort    = 1500 * time.Millisecond // when nobody has answered
	patientResort = 5 * time.Second         // when there is no other way
)

var errLate = errors.New("the budget is spent")

func (o *RecordsOptions) resort() time.Duration {
	if o.Patient {
		return patientResort
	}
	return lastResort
}

// isLate reports whether a question was given up because its peer took too long,
// and not because others were enough.
func isLate(ctx context.Context) bool {
	return errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(context.Cause(ctx), errLate)
}

// resort is how long a peer is waited for at most: beyond its patience only if a
// connection is open.
func (x *Exchange) resort(p peer.ID, records int, more time.Duration) time.Duration {
	if x.cfg.Host.Network().Connectedness(p) != network.Connected {
		more = 0
	}
	return x.patience(p, records) + more
}

// patience is how long a peer may take: the round trip that it has shown, or a
// dial, the budget, and some time for each record that it is to send.
func (x *Exchange) patience(p peer.ID, records int) time.Duration {
	rtt := x.health.rtt(p)
	if rtt == 0 {
		rtt = x.cfg.Host.Peerstore().LatencyEWMA(p)
	}
	if rtt == 0 {
		rtt = dialTimeout / 2
	}
	return rtt + x.cfg.Budget + time.Duration(records)*2*time.Millisecond
}
