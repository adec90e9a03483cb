package exchange

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestDeskHandsOutOneLease claims, leaves and reports in any order, and holds
// after each step what a claim promises.
func TestDeskHandsOutOneLease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1e9, 0)
		d := newDesk(func() time.Time { return now })
		const key = "k"
		type party struct {
			c        *claimant
			fetching bool
		}
		var in []*party
		always := func(claimReply) bool { return true }
		take := func(p *party) { // what it was told meanwhile
			for {
				select {
				case r := <-p.c.told:
					if r.State == claimFetch {
						p.fetching = true
						continue
					}
					in = slices.DeleteFunc(in, func(q *party) bool { return q == p })
				default:
				}
				return
			}
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
			switch rapid.SampledFrom([]string{"claim", "leave", "done", "fail"}).Draw(t, "step") {
			case "claim":
				p := &party{c: newClaimant("p", key)}
				switch r := d.claim(p.c, false, always); r.State {
				case claimFetch:
					p.fetching = true
					in = append(in, p)
				case claimWait:
					in = append(in, p)
				}
			case "leave":
				if len(in) > 0 {
					i := rapid.IntRange(0, len(in)-1).Draw(t, "who")
					d.leave(in[i].c)
					in = slices.Delete(in, i, i+1)
				}
			case "done", "fail":
				i := slices.IndexFunc(in, func(p *party) bool { return p.fetching })
				if i < 0 {
					break
				}
				state := rapid.SampledFrom([]claimState{claimHolders, claimRefused, claimFailed}).Draw(t, "result")
				d.report(in[i].c, claimReply{State: state})
				in = slices.Delete(in, i, i+1)
			}
			for _, p := range slices.Clone(in) {
				take(p)
			}
			fetching := 0
			for _, p := range in {
				if p.fetching {
					fetching++
				}
			}
			if fetching > 1 || (len(in) > 0 && fetching == 0) {
				t.Fatalf("%d claim, and %d of them fetch", len(in), fetching)
			}
			if got := d.waiting(key); got != len(in)-fetching {
				t.Fatalf("%d wait, the desk has %d", len(in)-fetching, got)
			}
			if (d.size() == 0) != (len(in) == 0) {
				t.Fatalf("%d claims are open, and %d keys are kept", len(in), d.size())
			}
		}
	})
}

func TestDeskRemembersForAWhileAndNotTooMuch(t *testing.T) {
	now := time.Unix(1e9, 0)
	d := newDesk(func() time.Time { return now })
	always := func(claimReply) bool { return true }
	end := func(key string, r claimReply) {
		c := newClaimant("p", key)
		d.claim(c, true, always)
		d.report(c, r)
	}
	end("gone", claimReply{State: claimRefused, Code: 404})
	if r := d.claim(newClaimant("q", "gone"), false, always); r.State != claimRefused {
		t.Errorf("a moment after a refusal: state %d", r.State)
	}
	now = now.Add(recallRefused)
	if r := d.claim(newClaimant("q", "gone"), false, always); r.State != claimFetch {
		t.Errorf("later: state %d", r.State)
	}
	for i := range 2 * maxRecalled {
		end(string(rune(i)), claimReply{State: claimAnswer, Value: make([]byte, 1<<10)})
	}
	end("big", claimReply{State: claimAnswer, Value: make([]byte, maxAnswer)})
	if len(d.recalled) > maxRecalled || d.bytes > maxRecalledB {
		t.Errorf("%d results with %d bytes are remembered", len(d.recalled), d.bytes)
	}
	bytes := 0
	for _, r := range d.recalled {
		bytes += r.result.size()
	}
	if bytes != d.bytes {
		t.Errorf("%d bytes are remembered, counted %d", bytes, d.bytes)
	}
}

// size returns how many keys are claimed.
func (d *desk) size() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.claims)
}

// waiting returns how many wait for key.
func (d *desk) waiting(key string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if all := d.claims[key]; all != nil {
		return len(all.waiters)
	}
	return 0
}
