package exchange

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// noise is n bytes that do not compress.
func noise(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// slack is what a transfer may move besides the bytes of the files that it lacks: the
// listing, messages, and what was on its way when a stream broke.
const slack = 6 << 20

// TestLargeFileOverBrokenConnections breaks the connection twice in the middle of a
// file that is too large to wait in memory. There is one holder; what it sent is not
// sent again.
func TestLargeFileOverBrokenConnections(t *testing.T) {
	const size = 18 << 20
	r := newRelease(t, "example.test/m", "v1.0.0", map[string][]byte{"testdata/large": noise(size)})
	w := newWorld(t, 2, func(_ int, c *Config) { c.Up.Total = 24 << 20 })
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(r)
	tr := asker.begin(r, holder.id())
	for _, part := range []uint64{size / 3, size * 2 / 3} {
		eventually(t, "a part is there", func() bool { return asker.x.limits.recd.Load() >= part })
		if err := asker.host.Network().ClosePeer(holder.id()); err != nil {
			t.Fatal(err)
		}
	}
	stats, err := tr.Done(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if missing := asker.missing(); len(missing) > 0 {
		t.Errorf("done, and %v are missing", missing)
	}
	if got := asker.x.limits.recd.Load(); got > size+slack {
		t.Errorf("%d bytes came for a file of %d that was cut twice", got, size)
	}
	if stats.Resumed != 1 {
		t.Errorf("%d files went on in their middle, want the one", stats.Resumed)
	}
	if stats.Wasted > 0 {
		t.Errorf("%d bytes wasted", stats.Wasted)
	}
}

// TestHoldersVanishMidZip kills one holder after the other while a zip comes from
// all of them; the last one is enough.
func TestHoldersVanishMidZip(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 150, 2<<20))
	w := newWorld(t, 5, func(_ int, c *Config) { c.Up.Total = 512 << 10 })
	holders, asker := w.offices[:4], w.offices[4]
	tr := func() *Transfer {
		for _, o := range holders {
			o.admit(r)
		}
		return asker.begin(r, holders[0].id(), holders[1].id(), holders[2].id(), holders[3].id())
	}()
	for i, o := range holders[:3] {
		part := uint64(i+1) * 200 << 10
		eventually(t, "some of it is there", func() bool { return asker.x.limits.recd.Load() >= part })
		o.stop()
	}
	if _, err := tr.Done(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing := asker.missing(); len(missing) > 0 {
		t.Errorf("done, and %v are missing", missing)
	}
	for _, o := range holders[:3] {
		if c := asker.x.health.peers[o.id()]; c != nil && len(c.lies) > 0 {
			t.Error("to vanish is no lie")
		}
	}
}

// TestClientThatGoesAway ends a transfer in its middle: what has arrived stays, what
// was on its way ends, and the next transfer fetches only the rest.
func TestClientThatGoesAway(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 200, 2<<20))
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(r)
	var held atomic.Bool
	held.Store(true)
	adversary{hold: func(ctx context.Context, n int) {
		if n == 100 && held.Load() {
			<-ctx.Done()
		}
	}}.takeOver(holder)
	ctx, goAway := context.WithCancel(t.Context())
	var staged *store.Staged
	tr, err := asker.x.Begin(ctx, PullRequest{Module: r.module, Root: r.root, Holders: ids(holder), Size: r.size,
		Stage: func(ctx context.Context, listing []byte) (_ []verify.File, err error) {
			if staged, err = asker.store.StageListing(ctx, r.module, r.root, listing); err != nil {
				return nil, err
			}
			return staged.Missing()
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer staged.Close()
	asker.staged = staged
	all := len(asker.missing())
	eventually(t, "half of it is there", func() bool { return len(asker.missing()) <= all-90 })
	goAway()
	if _, err := tr.Done(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("the transfer ended with %v, want that its context ended", err)
	}
	left := len(asker.missing())
	held.Store(false)
	stats, err := asker.fetch(t.Context(), r, holder.id())
	if err != nil {
		t.Fatal(err)
	}
	asker.served(r)
	if stats.Files != left || left > all-90 {
		t.Errorf("%d files were fetched when %d of %d were missing", stats.Files, left, all)
	}
}

func ids(offices ...*office) (list []peer.ID) {
	for _, o := range offices {
		list = append(list, o.id())
	}
	return list
}

// TestRestartInTheMiddle ends an office in the middle of a transfer, and opens its
// store again: nothing is left over of the transfer, and the next one brings all.
func TestRestartInTheMiddle(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 200))
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(r)
	adversary{hold: func(ctx context.Context, n int) {
		if n == 120 {
			<-ctx.Done()
		}
	}}.takeOver(holder)
	tr := asker.begin(r, holder.id())
	all := len(asker.missing())
	eventually(t, "more than half of it is there", func() bool { return len(asker.missing()) <= all-110 })
	asker.stop()
	if _, err := tr.Done(t.Context()); err == nil {
		t.Error("a transfer that was cut by the end of its office succeeded")
	}
	adversary{}.takeOver(holder)
	w.offices = w.offices[:1]
	again := w.joinAt(asker.dir, "again", func(*Config) {})
	w.connect()
	if acct := again.store.Accounting(); acct.Files != 0 {
		t.Errorf("after the restart there is %+v, want nothing", acct)
	}
	if _, err := again.fetch(t.Context(), r, holder.id()); err != nil {
		t.Fatal(err)
	}
	again.served(r)
}
