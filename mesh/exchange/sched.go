package exchange

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// How much a scheduler asks of one peer at a time.
const (
	minWindow  = 16                     // files outstanding
	maxWindow  = 256                    //
	windowTime = 300 * time.Millisecond // what a window should last, by the peer's measured speed
	maxDoubled = 2                      // peers that one file is asked of at once
	stealAfter = 400 * time.Millisecond // a file outstanding for less is not asked of another peer
)

// sched decides which file is asked of which peer. It is pure state: no clock,
// goroutines or lock of its own. Files are handed out in the order of the
// listing, those that a client waits for first. A peer that has nothing left to
// do is given what a slower one was asked for and has not started to send.
type sched struct {
	items []item
	queue []int // positions of items to be asked, next first
	left  int   // items not done
	peers map[peer.ID]*worker
}

// item is one distinct file to be had.
type item struct {
	line  uint32 // in the listing
	file  verify.File
	done  bool
	on    []peer.ID // asked of these
	since time.Time // when it was first asked of one of them
	part  *joint    // a large file of which some has arrived
}

// worker is what is known of one peer in this transfer.
type worker struct {
	asked   []int // outstanding, in the order in which they will arrive
	lacks   map[int]bool
	began   time.Time // when asked was last empty
	arrived int       // files since began
}

// newSched plans for the missing ones of a listing's files; of files with the
// same content only one is fetched.
func newSched(listing verify.Listing, missing []verify.File) *sched {
	want := make(map[verify.Digest]bool, len(missing))
	for _, f := range missing {
		want[f.Sum] = true
	}
	s := &sched{peers: map[peer.ID]*worker{}}
	for line, f := range listing.Files {
		if want[f.Sum] {
			delete(want, f.Sum)
			s.queue = append(s.queue, len(s.items))
			s.items = append(s.items, item{line: uint32(line), file: f})
		}
	}
	s.left = len(s.items)
	return s
}

func (s *sched) join(p peer.ID) { s.peers[p] = &worker{lacks: map[int]bool{}} }

// window is how many files may be outstanding at a peer: at first an equal share
// of half of what is left, then as many as it sends in windowTime.
func (s *sched) window(w *worker, now time.Time) int {
	if w.arrived < minWindow {
		return min(max(s.left/(2*len(s.peers)), minWindow), maxWindow)
	}
	rate := float64(w.arrived) / max(now.Sub(w.began), time.Millisecond).Seconds()
	return min(max(int(rate*windowTime.Seconds()), minWindow), maxWindow)
}

// take returns positions of files to ask of p now; none if it has enough to do,
// or there is nothing for it.
func (s *sched) take(p peer.ID, now time.Time) []int {
	w := s.peers[p]
	room := s.window(w, now) - len(w.asked)
	if len(w.asked) > 0 && room < minWindow/2 {
		return nil // few at a time would be a message each
	}
	batch := s.fromQueue(w, room)
	if len(batch) == 0 && len(w.asked) == 0 {
		batch = s.steal(p, w, now)
	}
	if len(batch) > 0 && len(w.asked) == 0 {
		w.began, w.arrived = now, 0
	}
	for _, i := range batch {
		it := &s.items[i]
		if len(it.on) == 0 {
			it.since = now
		}
		it.on = append(it.on, p)
		w.asked = append(w.asked, i)
	}
	return batch
}

func (s *sched) fromQueue(w *worker, room int) (batch []int) {
	kept := s.queue[:0:len(s.queue)]
	for n, i := range s.queue {
		switch {
		case len(batch) >= room:
			kept = append(kept, s.queue[n:]...)
			s.queue = kept
			return batch
		case s.items[i].done:
		case w.lacks[i]:
			kept = append(kept, i)
		default:
			batch = append(batch, i)
		}
	}
	s.queue = kept
	return batch
}

// steal returns the second half of what another peer has outstanding the longest
// way from being sent, leaving out what it is sending now.
func (s *sched) steal(p peer.ID, w *worker, now time.Time) []int {
	var best []int
	for q, other := range s.peers {
		if q == p || len(other.asked) == 0 {
			continue
		}
		var can []int
		for n, i := range other.asked {
			it := &s.items[i]
			sending := n == 0 && it.part != nil
			if !it.done && !sending && !w.lacks[i] && len(it.on) < maxDoubled && now.Sub(it.since) >= stealAfter {
				can = append(can, i)
			}
		}
		if len(can) > len(best) {
			best = can
		}
	}
	return slices.Clone(best[len(best)/2:])
}

// arrived notes that p sent the file at position i, and reports whether it is
// still wanted. It does not say yet that the bytes are good.
func (s *sched) arrived(p peer.ID, i int) (wanted bool) {
	w := s.peers[p]
	w.arrived++
	s.unask(p, i)
	return !s.items[i].done
}

// lacking notes that p does not have the file at i.
func (s *sched) lacking(p peer.ID, i int) {
	s.peers[p].lacks[i] = true
	s.unask(p, i)
	s.requeue(i)
}

// finish notes that the file at i was verified and kept.
func (s *sched) finish(i int) (first bool) {
	if s.items[i].done {
		return false
	}
	s.items[i].done = true
	s.left--
	return true
}

// again notes that what arrived for i was no good.
func (s *sched) again(i int) { s.requeue(i) }

// lost takes p out; what was outstanding there is to be asked of others, first.
func (s *sched) lost(p peer.ID) {
	w := s.peers[p]
	if w == nil {
		return
	}
	delete(s.peers, p)
	for n := len(w.asked) - 1; n >= 0; n-- {
		i := w.asked[n]
		s.items[i].on = slices.DeleteFunc(s.items[i].on, func(q peer.ID) bool { return q == p })
		s.requeue(i)
	}
}

// requeue puts i first in the queue, unless it is done or on its way.
func (s *sched) requeue(i int) {
	it := &s.items[i]
	if !it.done && len(it.on) == 0 && !slices.Contains(s.queue, i) {
		s.queue = slices.Insert(s.queue, 0, i)
	}
}

func (s *sched) unask(p peer.ID, i int) {
	w := s.peers[p]
	if n := slices.Index(w.asked, i); n >= 0 {
		w.asked = slices.Delete(w.asked, n, n+1)
	}
	s.items[i].on = slices.DeleteFunc(s.items[i].on, func(q peer.ID) bool { return q == p })
}

// urgent puts the file at i first, if it was not asked for yet.
func (s *sched) urgent(i int) {
	if n := slices.Index(s.queue, i); n > 0 {
		s.queue = slices.Insert(slices.Delete(s.queue, n, n+1), 0, i)
	}
}

// stuck reports whether some file is wanted that no peer here can send.
func (s *sched) stuck() bool {
	for _, i := range s.queue {
		if s.items[i].done {
			continue
		}
		can := false
		for _, w := range s.peers {
			can = can || !w.lacks[i]
		}
		if !can {
			return true
		}
	}
	return s.left > 0 && len(s.peers) == 0
}

// waiting reports whether files wait to be asked of somebody.
func (s *sched) waiting() bool { return len(s.queue) > 0 }

// idle reports whether nothing is outstanding.
func (s *sched) idle() bool {
	for _, w := range s.peers {
		if len(w.asked) > 0 {
			return false
		}
	}
	return true
}
