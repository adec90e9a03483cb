package exchange

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// How much a scheduler asks of one peer at a time.
const (
	minWindow   = 16                     // files outstanding
	crowdWindow = 2                      // the same when others fetch the same: what is outstanding here cannot be had from them
	maxWindow   = 256                    //
	windowTime  = 300 * time.Millisecond // what a window should last at least, by the peer's measured speed
	windowTrips = 6                      // and in round trips: half of it is left when more is asked for
	maxDoubled  = 2                      // peers that one file is asked of at once
	minMeasured = 100 * time.Millisecond // spans shorter than this measure nothing
	minWatched  = 2 * time.Second        // how long a peer may send one large file before it is judged
	minGain     = 100 * time.Millisecond // what is left of a file must take the faster peer so long at least
	stealAfter  = 400 * time.Millisecond // a file outstanding for less is not asked of another peer
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

	crowded bool // others fetch the same, see crowd
}

// item is one distinct file to be had.
type item struct {
	line  uint32 // in the listing
	file  verify.File
	here  bool // arrived, and being verified
	done  bool
	on    []peer.ID // asked of these
	since time.Time // when it was first asked of one of them
	part  *joint    // a large file of which some has arrived
	whole bool      // not to be asked for as a difference
}

// worker is what is known of one peer in this transfer.
type worker struct {
	asked   []int // outstanding, in the order in which they will arrive
	lacks   map[int]bool
	began   time.Time     // when asked was last empty
	arrived int           // files since began
	bytes   int64         // since began
	best    float64       // highest rate measured, in bytes a second
	lasts   time.Duration // what its window should last

	holding *holding // what it says that it has; nil is unknown
	has     int      // lines in holding.Have
}

// rate is how many bytes a second w delivers; 0 is unknown.
func (w *worker) rate(now time.Time) float64 {
	if took := now.Sub(w.began); took >= minMeasured {
		return float64(w.bytes) / took.Seconds()
	}
	return 0
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

// join adds p, which delivered speed bytes a second in earlier transfers and is rtt
// away; 0 is unknown.
func (s *sched) join(p peer.ID, speed float64, rtt time.Duration) {
	s.peers[p] = &worker{lacks: map[int]bool{}, best: speed, lasts: max(windowTime, windowTrips*rtt)}
}

// window is how many files may be outstanding at a peer: at first an equal share
// of half of what is left, then as many as it sends while a window should last.
func (s *sched) window(w *worker, now time.Time) int {
	least := minWindow
	if s.crowded {
		least = crowdWindow
	}
	if w.arrived < least {
		if s.crowded {
			return least
		}
		return min(max(s.left/(2*len(s.peers)), minWindow), maxWindow)
	}
	rate := float64(w.arrived) / max(now.Sub(w.began), time.Millisecond).Seconds()
	return min(max(int(rate*w.lasts.Seconds()), least), maxWindow)
}

// take returns positions of files to ask of p now; none if it has enough to do,
// or there is nothing for it.
func (s *sched) take(p peer.ID, now time.Time) []int {
	w := s.peers[p]
	window := s.window(w, now)
	room := window - len(w.asked)
	if len(w.asked) > 0 && room < window/2 {
		return nil // few at a time would be a message each
	}
	batch := s.fromQueue(w, room, s.crowded && (w.holding == nil || w.holding.Whole))
	if len(batch) == 0 && len(w.asked) == 0 {
		batch = s.fromQueue(w, room, false)
	}
	if len(batch) == 0 && len(w.asked) == 0 {
		batch = s.steal(p, w, now)
	}
	if len(batch) > 0 && len(w.asked) == 0 {
		w.began, w.arrived, w.bytes = now, 0, 0
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

// fromQueue takes at most room files that w has; with rare, only those that others
// who are fetching do not have.
func (s *sched) fromQueue(w *worker, room int, rare bool) (batch []int) {
	kept := s.queue[:0:len(s.queue)]
	for n, i := range s.queue {
		switch {
		case len(batch) >= room:
			kept = append(kept, s.queue[n:]...)
			s.queue = kept
			return batch
		case s.items[i].done, s.items[i].here:
		case s.lacks(w, i), rare && !s.rare(i):
			kept = append(kept, i)
		default:
			batch = append(batch, i)
		}
	}
	s.queue = kept
	return batch
}

// steal returns the second half of what the peer with most outstanding has not
// begun to send, as far as can be told.
func (s *sched) steal(p peer.ID, w *worker, now time.Time) []int {
	var best []int
	for q, other := range s.peers {
		if q == p || len(other.asked) == 0 {
			continue
		}
		var can []int
		for _, i := range other.asked {
			it := &s.items[i]
			if !it.done && !it.here && it.part == nil && !s.lacks(w, i) && len(it.on) < maxDoubled && now.Sub(it.since) >= stealAfter {
				can = append(can, i)
			}
		}
		if len(can) > len(best) {
			best = can
		}
	}
	return slices.Clone(best[len(best)/2:])
}

// received notes that n bytes came from p.
func (s *sched) received(p peer.ID, n int64, now time.Time) {
	w := s.peers[p]
	w.bytes += n
	w.best = max(w.best, w.rate(now))
}

// arrived notes that p sent the file at position i, and reports whether it is
// still wanted. It does not say yet that the bytes are good.
func (s *sched) arrived(p peer.ID, i int) (wanted bool) {
	s.peers[p].arrived++
	s.unask(p, i)
	it := &s.items[i]
	wanted = !it.done && !it.here
	it.here = true
	return wanted
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
func (s *sched) again(i int) {
	s.items[i].here = false
	s.requeue(i)
}

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
	if !it.done && !it.here && len(it.on) == 0 && !slices.Contains(s.queue, i) {
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

// slow returns a peer that is in the middle of a large file which p, with nothing
// else to do, would finish much sooner: it is to be taken out, so that p goes on
// where it was.
func (s *sched) slow(p peer.ID, now time.Time) (peer.ID, bool) {
	own := s.peers[p].best
	for q, w := range s.peers {
		if q == p || len(w.asked) == 0 || s.lacks(s.peers[p], w.asked[0]) {
			continue
		}
		part := s.items[w.asked[0]].part
		if part == nil || now.Sub(s.items[w.asked[0]].since) < minWatched {
			continue
		}
		left := float64(part.raw.CompressedSize - part.off.Load())
		if theirs := w.rate(now); own > 4*theirs && left > own*minGain.Seconds() {
			return q, true
		}
	}
	return "", false
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
			can = can || !s.lacks(w, i)
		}
		if !can {
			return true
		}
	}
	return s.left > 0 && len(s.peers) == 0
}

// waiting reports whether files wait to be asked of somebody.
func (s *sched) waiting() bool { return len(s.queue) > 0 }

// verifying reports whether a file has arrived of which nobody knows yet whether it
// is good.
func (s *sched) verifying() bool {
	return slices.ContainsFunc(s.items, func(it item) bool { return it.here && !it.done })
}

// idle reports whether nothing is outstanding.
func (s *sched) idle() bool {
	for _, w := range s.peers {
		if len(w.asked) > 0 {
			return false
		}
	}
	return true
}
