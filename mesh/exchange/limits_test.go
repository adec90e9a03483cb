package exchange

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// transfer waits for n bytes as a stream does, and returns how long it took.
func transfer(t *testing.T, l *limits, id string, class Class, n int) time.Duration {
	start := time.Now()
	p := l.of(peer.ID(id), class)
	for ; n > 0; n -= paceChunk {
		if err := p.up(context.Background(), min(n, paceChunk)); err != nil {
			t.Error(err)
		}
	}
	return time.Since(start)
}

func TestBandwidthLimits(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name     string
		up       Bandwidth
		class    Class
		busy     bool // a client's transfer is under way
		min, max time.Duration
	}{
		{"none", Bandwidth{}, Client, false, 0, 0},
		{"total", Bandwidth{Total: mib}, Client, false, 9 * time.Second, 10 * time.Second},
		{"per peer", Bandwidth{PerPeer: mib}, Client, false, 9 * time.Second, 10 * time.Second},
		{"the lower of both", Bandwidth{Total: 2 * mib, PerPeer: mib}, Client, false, 9 * time.Second, 10 * time.Second},
		{"repair with nobody waiting", Bandwidth{Total: mib}, Background, false, 9 * time.Second, 10 * time.Second},
		{"repair while a client waits", Bandwidth{Total: mib}, Background, true, 79 * time.Second, 80 * time.Second},
		{"prefetch while a client waits", Bandwidth{Total: mib}, Prefetch, true, 79 * time.Second, 80 * time.Second},
		{"repair over a link with a limit of its own", Bandwidth{PerPeer: mib}, Background, true, 79 * time.Second, 80 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimits(c.up, Bandwidth{})
				if c.busy {
					defer l.client()()
				}
				if took := transfer(t, l, "p", c.class, 10*mib); took < c.min || took > c.max {
					t.Errorf("10 MiB took %v, want %v to %v", took, c.min, c.max)
				}
			})
		})
	}
}

func TestPeersShareTheTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(Bandwidth{Total: 1 << 20}, Bandwidth{})
		start := time.Now()
		done := make(chan struct{})
		for _, p := range []string{"a", "b"} {
			go func() { transfer(t, l, p, Client, 5<<20); done <- struct{}{} }()
		}
		<-done
		<-done
		if took := time.Since(start); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("twice 5 MiB took %v at 1 MiB/s", took)
		}
	})
}

// TestClientsGoFirst has a copy under way, over a link with a limit, when a client
// comes: while it waits the copy gets what is left over.
func TestClientsGoFirst(t *testing.T) {
	const perSecond = 512 << 10
	for _, c := range []struct {
		name string
		tune func(holder bool, c *Config)
	}{
		{"what the holder sends is limited", func(holder bool, c *Config) {
			if holder {
				c.Up.Total = perSecond
			}
		}},
		{"what the asker receives is limited", func(holder bool, c *Config) {
			if !holder {
				c.Down.PerPeer = perSecond
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			w := newWorld(t, 2, func(i int, cfg *Config) { c.tune(i == 0, cfg) })
			holder, asker := w.offices[0], w.offices[1]
			copied := newRelease(t, "example.test/copied", "v1.0.0", sources(1, 250))
			wanted := newRelease(t, "example.test/wanted", "v1.0.0", sources(2, 200))
			holder.admit(copied)
			holder.admit(wanted)
			asker.class = Background
			asker.begin(copied, holder.id())
			received := func() int64 { return int64(asker.x.limits.recd.Load()) }
			eventually(t, "the copy is under way", func() bool { return received() > paceChunk })
			before := received()
			asker.class = Client
			stats, err := asker.begin(wanted, holder.id()).Done(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// What was read or waited for when the client came still arrives, as does a
			// first burst of the low share.
			free := 3*paceChunk + int64(perSecond/lowShare*stats.Took.Seconds())
			if more := received() - before - stats.Bytes; more > free {
				t.Errorf("%d bytes of the copy came along with the %d that a client waited for", more, stats.Bytes)
			}
		})
	}
}

// TestNarrowLinksAreNoStalls sends a copy over a link with the least limit there is,
// while a client takes most of that.
func TestNarrowLinksAreNoStalls(t *testing.T) {
	t.Parallel() // it waits more than it works
	w := newWorld(t, 2, func(i int, c *Config) {
		if i == 0 {
			c.Up.Total = MinBandwidth
		}
	})
	holder, asker := w.offices[0], w.offices[1]
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 25, 100<<10))
	holder.admit(r)
	defer holder.x.limits.client()()
	asker.class = Background
	if _, err := asker.begin(r, holder.id()).Done(t.Context()); err != nil {
		t.Error(err)
	}
	if !asker.x.health.usable(holder.id()) {
		t.Error("the holder counts as stalled")
	}
}

func TestWaitingForBandwidthEndsWithItsContext(t *testing.T) {
	l := newLimits(Bandwidth{Total: 1}, Bandwidth{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.of("p", Client).up(ctx, paceChunk+1); err == nil {
		t.Error("waited to the end")
	}
}

func TestPeersAreRankedByConduct(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := newHealth(func() time.Time { return now })
	h.answered("lan", 500*time.Microsecond)
	h.answered("wan", 50*time.Millisecond)
	h.answered("down", time.Millisecond)
	h.failed("down")
	h.answered("liar", time.Microsecond)
	h.lied("liar")
	got := h.rank([]peer.ID{"liar", "down", "wan", "lan"})
	for i, want := range []peer.ID{"lan", "wan", "down", "liar"} {
		if got[i] != want {
			t.Errorf("place %d: %q, want %q", i, got[i], want)
		}
	}
	if h.usable("down") || !h.hopeful("down") {
		t.Error("after one failure a peer is passed over where there is a choice, and only there")
	}
	now = now.Add(firstBackoff)
	if !h.usable("down") {
		t.Error("the backoff does not end")
	}
	h.late("wan")
	if !h.usable("wan") {
		t.Error("to be late once is no failure")
	}
	h.late("wan")
	if h.usable("wan") {
		t.Error("to be late twice is one")
	}
	h.lied("liar")
	h.lied("liar")
	if !h.banned("liar") {
		t.Errorf("not cut off after %d lies", maxLies)
	}
	now = now.Add(cutOffTime)
	if h.banned("liar") {
		t.Error("cut off for ever")
	}
}
