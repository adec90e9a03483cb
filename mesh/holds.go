package mesh

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// countTime is how long the list of announced roots may take to say its length:
// behind many that are being announced it takes longer, and is asked again.
const countTime = time.Second

// holds is how many zips this node announces, which it tells other members for
// their operators. What not every member may know of is not announced, so it is
// not in the number either.
type holds struct {
	zips atomic.Pointer[uint32] // nil: not counted yet
	told atomic.Pointer[uint32] // what zips was when others were last told of news
}

// count is the number as it was last counted. The caller must not change it.
func (h *holds) count() *uint32 { return h.zips.Load() }

// news reports whether the number has changed since it last reported that.
func (h *holds) news() bool {
	now := h.zips.Load()
	before := h.told.Swap(now)
	return now != nil && (before == nil || *before != *now)
}

// countZips asks for the length of the list of announced roots, which has it at
// hand.
func (m *Mesh) countZips(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	n, err := m.session.Load().keystore.Size(ctx)
	if err != nil {
		if m.ctx.Err() == nil {
			m.log.Debug("count what is announced", "err", err)
		}
		return
	}
	zips := uint32(min(max(n, 0), math.MaxUint32))
	m.holds.zips.Store(&zips)
}

// toldZips notes how much p says that it holds.
func (b *peerBook) toldZips(p peer.ID, zips *uint32) {
	if zips == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p).zips = zips
}
