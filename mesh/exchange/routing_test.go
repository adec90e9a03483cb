package exchange

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// countedRouting knows one provider of everything, and counts who asks.
type countedRouting struct {
	provider peer.ID
	asked    atomic.Int32
}

func (r *countedRouting) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	r.asked.Add(1)
	found := make(chan peer.AddrInfo, 1)
	found <- peer.AddrInfo{ID: r.provider}
	close(found)
	return found
}

// Far away, a look-up in the DHT takes as long as a small release, and it is several
// messages for each.
func TestSmallReleaseWithAHolderIsNotLookedFor(t *testing.T) {
	routing := new(countedRouting)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 40))
	other := newRelease(t, "example.test/other", "v1.0.0", sources(2, 40))
	w := newWorld(t, 2, func(i int, c *Config) {
		if i == 1 {
			c.Routing = routing
		}
	})
	holder, asker := w.offices[0], w.offices[1]
	routing.provider = holder.id()
	holder.admit(r)
	holder.admit(other)
	if _, err := asker.fetch(t.Context(), r, holder.id()); err != nil {
		t.Fatal(err)
	}
	if n := routing.asked.Load(); n != 0 {
		t.Errorf("%d look-ups in the DHT for a release of %d bytes whose holder is known, want none", n, r.size)
	}
	if _, err := asker.fetch(t.Context(), other); err != nil || routing.asked.Load() != 1 {
		t.Errorf("%d look-ups when no holder is known, %v; want one", routing.asked.Load(), err)
	}
}
