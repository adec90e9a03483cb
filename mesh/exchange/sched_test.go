package exchange

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"pgregory.net/rapid"

	"github.com/meshproxy/meshproxy/verify"
)

func listingOf(n int) verify.Listing {
	var l verify.Listing
	for i := range n {
		l.Files = append(l.Files, verify.File{Name: fmt.Sprintf("m@v/%06d", i), Sum: verify.DigestOf([]byte{byte(i), byte(i >> 8)})})
	}
	return l
}

// TestSchedulerFinishesWhateverPeersDo lets peers come, go, lack files, send
// them, send bad ones and be slow, in any order. As long as an honest peer comes
// in the end, every file is done, and none is asked of too many.
func TestSchedulerFinishesWhateverPeersDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := listingOf(rapid.IntRange(1, 200).Draw(t, "files"))
		s := newSched(l, l.Files)
		now := time.Unix(0, 0)
		ids := []peer.ID{"a", "b", "c"}
		verifying := map[int]bool{}
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			p := rapid.SampledFrom(ids).Draw(t, "peer")
			w := s.peers[p]
			switch step := rapid.SampledFrom([]string{"join", "take", "arrive", "lack", "lose", "good", "bad", "urgent", "crowd", "told"}).Draw(t, "step"); {
			case step == "join" && w == nil:
				s.join(p, 0, 0)
			case step == "take" && w != nil:
				s.take(p, now)
			case step == "arrive" && w != nil && len(w.asked) > 0:
				i := w.asked[0]
				s.received(p, 1000, now)
				if s.arrived(p, i) {
					verifying[i] = true
				}
			case step == "lack" && w != nil && len(w.asked) > 0:
				s.lacking(p, w.asked[0])
			case step == "crowd":
				s.crowd()
			case step == "told":
				s.told(p, &holding{Whole: rapid.Bool().Draw(t, "whole"), Have: rapid.SliceOf(rapid.Byte()).Draw(t, "have")})
			case step == "lose":
				s.lost(p)
			case step == "urgent":
				s.urgent(rapid.IntRange(0, len(s.items)-1).Draw(t, "item"))
			case step == "good" || step == "bad":
				for i := range verifying {
					delete(verifying, i)
					if step == "good" {
						s.finish(i)
					} else {
						s.again(i)
					}
					break
				}
			}
			checkSched(t, s, verifying)
		}
		for i := range verifying {
			s.finish(i)
		}
		for _, p := range ids {
			s.lost(p)
		}
		s.join("honest", 0, 0)
		for s.left > 0 {
			if s.stuck() {
				t.Fatalf("stuck with an honest peer: %d left, queue %v", s.left, s.queue)
			}
			batch := s.take("honest", now)
			if len(batch) == 0 {
				t.Fatalf("%d left, and nothing for an honest peer", s.left)
			}
			for _, i := range batch {
				if s.arrived("honest", i) {
					s.finish(i)
				}
			}
		}
	})
}

// checkSched holds what is always true: a file that is not done is in exactly one
// place or being sent, and no more than two peers are asked for it.
func checkSched(t *rapid.T, s *sched, verifying map[int]bool) {
	left := 0
	for i, it := range s.items {
		if !it.done {
			left++
		}
		asked := 0
		for _, w := range s.peers {
			if slices.Contains(w.asked, i) {
				asked++
			}
		}
		if asked != len(it.on) || asked > maxDoubled {
			t.Fatalf("file %d is asked of %d peers, noted for %v", i, asked, it.on)
		}
		if !it.done && !verifying[i] && asked == 0 && !slices.Contains(s.queue, i) {
			t.Fatalf("file %d is lost: %+v", i, it)
		}
	}
	if left != s.left {
		t.Fatalf("%d left, counted %d", left, s.left)
	}
}

func TestIdlePeerTakesOverFromASlowOne(t *testing.T) {
	l := listingOf(40)
	s := newSched(l, l.Files)
	now := time.Unix(0, 0)
	s.join("slow", 0, 0)
	if n := len(s.take("slow", now)); n != 20 {
		t.Fatalf("the only peer is asked for %d of 40 at first, want half", n)
	}
	s.join("fast", 0, 0)
	for _, i := range s.take("fast", now) {
		s.arrived("fast", i)
		s.finish(i)
	}
	for len(s.queue) > 0 {
		for _, i := range s.take("fast", now) {
			s.arrived("fast", i)
			s.finish(i)
		}
	}
	if got := s.take("fast", now); len(got) != 0 {
		t.Errorf("took over %v at once: the other had no time to send", got)
	}
	if got := s.take("fast", now.Add(stealAfter)); len(got) != 10 || got[0] != 10 {
		t.Errorf("took over %v, want the second half of what is outstanding", got)
	}
}

func TestFilesThatAClientWaitsForGoFirst(t *testing.T) {
	l := listingOf(1000)
	s := newSched(l, l.Files)
	s.urgent(900)
	s.join("p", 0, 0)
	if got := s.take("p", time.Unix(0, 0)); got[0] != 900 || got[1] != 0 {
		t.Errorf("asked for %v first, want 900 and then in order", got[:2])
	}
}

func TestSameContentIsFetchedOnce(t *testing.T) {
	l := verify.Listing{Files: []verify.File{{Name: "a"}, {Name: "b"}, {Name: "c", Sum: verify.DigestOf(nil)}}}
	if s := newSched(l, l.Files); len(s.items) != 2 {
		t.Errorf("%d files to fetch, want 2", len(s.items))
	}
}
