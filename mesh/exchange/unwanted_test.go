package exchange

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

// TestHomeThatKeepsNothing has a home peer whose own rules are against a module that all
// others want at once: what one of them fetched is what the others get.
func TestHomeThatKeepsNothing(t *testing.T) {
	w := newWorld(t, 5)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	home := w.home(homeKey(r.name(verify.Zip)), 0)
	home.unwanted[r.module.Path] = true
	var fetches, held atomic.Int32
	var all sync.WaitGroup
	asked := make(chan struct{})
	for _, o := range w.besides(home) {
		all.Go(func() {
			claim, err := o.x.Claim(t.Context(), r.name(verify.Zip))
			switch {
			case err != nil:
				t.Error(err)
			case claim.Outcome == Held:
				held.Add(1)
			case claim.Outcome == Fetch:
				if fetches.Add(1) == 1 {
					<-asked
				}
				if err := claim.Lease.Done(t.Context(), o.admit(r)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for waiting := 0; waiting < 3; time.Sleep(10 * time.Millisecond) {
		home.x.desk.mu.Lock()
		if c := home.x.desk.claims[claimKey(r.name(verify.Zip))]; c != nil {
			waiting = len(c.waiters)
		}
		home.x.desk.mu.Unlock()
	}
	close(asked)
	all.Wait()
	if fetches.Load() != 1 || held.Load() != 3 {
		t.Errorf("%d offices were told to fetch, %d who has it; want 1 and 3", fetches.Load(), held.Load())
	}
}
