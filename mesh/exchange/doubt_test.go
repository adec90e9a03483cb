package exchange

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/meshproxy/meshproxy/verify"
)

// sayWait makes o a home peer that tells everybody to wait, and never anything else.
// What it says comes from reply; probes are answered with probed.
func sayWait(o *office, reply func() claimReply, probed func() claimReply) {
	ctx := o.x.ctx
	o.host.SetStreamHandler(ClaimID, func(s network.Stream) {
		o.x.start(func() {
			defer s.Reset()
			l := newLink(ctx, s, ClaimID, o.x.limits.of(o.id(), Client))
			var req claimRequest
			if l.recv(&req, maxRequest) != nil {
				return
			}
			if req.Probe {
				r := probed()
				l.send(&r, maxClaim)
				l.flush()
				s.Close()
				return
			}
			beat := time.NewTicker(heartbeat)
			defer beat.Stop()
			for {
				r := reply()
				if l.send(&r, maxClaim) != nil || l.flush() != nil {
					return
				}
				select {
				case <-beat.C:
				case <-ctx.Done():
					return
				}
			}
		})
	})
}

// TestHomeThatSaysToWaitForEver has a home peer that holds up whoever claims there.
func TestHomeThatSaysToWaitForEver(t *testing.T) {
	var beats atomic.Uint64
	ended := func() claimReply { return claimReply{State: claimEnded} }
	cases := []struct {
		name    string
		fetcher func(w *world, home *office) []byte
		probed  func() claimReply
	}{
		{"and names nobody", func(*world, *office) []byte { return nil }, ended},
		{"and names what is no peer", func(*world, *office) []byte { return []byte("nobody") }, ended},
		{"and names the claimant", func(w *world, home *office) []byte { return []byte(w.claimant(home).id()) }, ended},
		{"and names one that does not fetch", func(w *world, home *office) []byte { return []byte(w.bystander(home).id()) }, ended},
		{"and names one that is gone", func(w *world, home *office) []byte {
			o := w.bystander(home)
			o.stop()
			return []byte(o.id())
		}, ended},
		{"and names itself, but denies it", func(_ *world, home *office) []byte { return []byte(home.id()) }, ended},
		{"and says that it fetches, without progress", func(_ *world, home *office) []byte { return []byte(home.id()) },
			func() claimReply { return claimReply{State: claimAlive, Progress: 7} }},
		{"and says that it gets on with a fetch that does not end", func(_ *world, home *office) []byte { return []byte(home.id()) },
			func() claimReply { return claimReply{State: claimAlive, Progress: beats.Add(1)} }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			w := newWorld(t, 4, func(_ int, c *Config) { c.Stall = 2 * time.Second })
			n := newRelease(t, "example.test/m", "v1.0.0", sources(1, 1)).name(verify.Zip)
			home := w.home(homeKey(n), 0)
			asker := w.claimant(home)
			fetcher := c.fetcher(w, home)
			sayWait(home, func() claimReply { return claimReply{State: claimWait, Fetcher: fetcher} }, c.probed)
			claim, err := asker.x.Claim(t.Context(), n) // or the test hangs, and is ended
			if err != nil || claim.Outcome != Fetch || claim.Home == home.id() {
				t.Fatalf("%+v, %v; want to be told to fetch by another home peer", claim, err)
			}
			claim.Lease.Close()
		})
	}
}

// claimant is an office that is not home; bystander is another one.
func (w *world) claimant(home *office) *office  { return w.besides(home)[0] }
func (w *world) bystander(home *office) *office { return w.besides(home)[1] }

func (w *world) besides(home *office) (others []*office) {
	for _, o := range w.offices {
		if o != home {
			others = append(others, o)
		}
	}
	return others
}

// TestLongFetchesAreWaitedFor has a fetch that takes longer than a home peer is
// believed without a word of the fetcher.
func TestLongFetchesAreWaitedFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		fetcher func(w *world, home *office) *office
	}{
		{"by another office", func(w *world, home *office) *office { return w.claimant(home) }},
		{"by the home peer", func(_ *world, home *office) *office { return home }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 5)
			r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
			n := r.name(verify.Zip)
			home := w.home(homeKey(n), 0)
			fetcher := c.fetcher(w, home)
			lease, err := fetcher.x.Claim(t.Context(), n)
			if err != nil || lease.Outcome != Fetch {
				t.Fatal(lease, err)
			}
			var others atomic.Int32
			claims := make(chan *Claim)
			for _, o := range w.offices {
				if o == fetcher {
					continue
				}
				others.Add(1)
				go func() {
					claim, err := o.x.Claim(t.Context(), n)
					if err != nil {
						t.Error(err)
					}
					claims <- claim
				}()
			}
			// Longer than it takes to give up a home peer that names nobody.
			time.Sleep(firstDoubt + maxDenied + 2*time.Second)
			if err := lease.Lease.Done(t.Context(), fetcher.admit(r)); err != nil {
				t.Error(err)
			}
			for range others.Load() {
				if claim := <-claims; claim == nil || claim.Outcome != Held {
					t.Errorf("told %+v, want to be told who has it", claim)
				}
			}
		})
	}
}

// TestOwnFetchIsWaitedFor has one office claim a name twice, for two who want it: the
// second must not go on to another home peer, where it would be told to fetch as well.
func TestOwnFetchIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	n := r.name(verify.Zip)
	fetcher := w.claimant(w.home(homeKey(n), 0))
	lease, err := fetcher.x.Claim(t.Context(), n)
	if err != nil || lease.Outcome != Fetch {
		t.Fatal(lease, err)
	}
	second := make(chan *Claim)
	go func() {
		claim, err := fetcher.x.Claim(t.Context(), n)
		if err != nil {
			t.Error(err)
		}
		second <- claim
	}()
	select {
	case claim := <-second:
		claim.Lease.Close()
		t.Errorf("told %v while the fetch is under way", claim.Outcome)
		lease.Lease.Close()
		return
	case <-time.After(firstDoubt + maxDenied + 2*time.Second):
	}
	if err := lease.Lease.Done(t.Context(), fetcher.admit(r)); err != nil {
		t.Error(err)
	}
	if claim := <-second; claim == nil || claim.Outcome != Held {
		t.Errorf("told %+v, want to be told that it is here", claim)
	}
}

// TestFetcherIsHeardWhenItsHomeIsNot has a home peer that tells nobody that the fetch
// is done: those who wait hear it from the fetcher.
func TestFetcherIsHeardWhenItsHomeIsNot(t *testing.T) {
	w := newWorld(t, 4)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	n := r.name(verify.Zip)
	home := w.home(homeKey(n), 0)
	fetcher, asker := w.besides(home)[0], w.besides(home)[1]
	fetcher.admit(r)
	sayWait(home, func() claimReply { return claimReply{State: claimWait, Fetcher: []byte(fetcher.id())} },
		func() claimReply { return claimReply{State: claimEnded} })
	claim, err := asker.x.Claim(t.Context(), n)
	if err != nil || claim.Outcome != Held || len(claim.Holders) != 1 || claim.Holders[0] != fetcher.id() {
		t.Fatalf("told %+v, %v; want the fetcher as holder", claim, err)
	}
	if claim.Home != fetcher.id() {
		t.Errorf("what the fetcher said is put down to %v; the home peer would be blamed for its lies", claim.Home)
	}
}
