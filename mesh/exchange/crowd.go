package exchange

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// Members that fetch one release at the same time get it from each other as well:
// who sends files names the others that it sends files of the release to, and each
// of them says which files it has by now. So a release that many want at once
// leaves its first holder a few times, and not once for each of them.
const (
	maxHave       = 16 << 10               // bytes of a set of lines; who fetches a longer listing does not say what it has
	maxCrowd      = 64                     // others that one transfer gets files from in its time
	tellEvery     = 300 * time.Millisecond // how often a source is asked what it has by now
	maxDry        = 5                      // answers to that in a row, without anything of use, after which another source takes its place
	crowdPatience = 3 * time.Second        // how long others that have no more than oneself are waited for while nothing changes
)

// holding is what an answerer says of one release.
type holding struct {
	Whole  bool     `cbor:"1,keyasint,omitempty"` // every file is here
	Have   []byte   `cbor:"2,keyasint,omitempty"` // line n is here if bit n%8 of byte n/8 is set; empty is unknown
	Others [][]byte `cbor:"3,keyasint,omitempty"` // some of those who fetch it from here
}

// has reports whether a line is here, as far as the answerer said.
func (h *holding) has(line uint32) bool {
	if h == nil || h.Whole || len(h.Have) == 0 {
		return true
	}
	return uint64(line/8) < uint64(len(h.Have)) && h.Have[line/8]&(1<<(line%8)) != 0
}

// crowd knows who fetches what from this node, and what this node is fetching.
type crowd struct {
	mu      sync.Mutex // guards what follows
	askers  map[verify.Digest]map[peer.ID]int
	fetches map[verify.Digest]*Transfer
}

func newCrowd() *crowd {
	return &crowd{askers: map[verify.Digest]map[peer.ID]int{}, fetches: map[verify.Digest]*Transfer{}}
}

// enter notes that p fetches root from here, until leave is called.
func (c *crowd) enter(root verify.Digest, p peer.ID) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.askers[root] == nil {
		c.askers[root] = map[peer.ID]int{}
	}
	c.askers[root][p]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.askers[root][p]--; c.askers[root][p] == 0 {
			delete(c.askers[root], p)
		}
		if len(c.askers[root]) == 0 {
			delete(c.askers, root)
		}
	}
}

// fetching notes that t is under way, until done is called.
func (c *crowd) fetching(t *Transfer) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetches[t.req.Root] = t
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.fetches[t.req.Root] == t {
			delete(c.fetches, t.req.Root)
		}
	}
}

// others returns who fetches root from here but p, any maxHolders of them.
func (c *crowd) others(root verify.Digest, p peer.ID) []peer.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []peer.ID
	for q := range c.askers[root] {
		if q != p {
			ids = append(ids, q)
		}
	}
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids[:min(len(ids), maxHolders)]
}

func (c *crowd) fetch(root verify.Digest) *Transfer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fetches[root]
}

// holding is what this node tells p of a release whose listing is here.
func (x *Exchange) holding(root verify.Digest, p peer.ID) *holding {
	h := &holding{Whole: x.cfg.Backend.HasZip(root), Others: rawPeers(x.crowd.others(root, p))}
	if t := x.crowd.fetch(root); t != nil && !h.Whole {
		h.Have = t.have()
	}
	return h
}

// have is the set of lines whose files are here; nil if it would be too large.
func (t *Transfer) have() []byte {
	files := t.listing.Files
	if len(files) > 8*maxHave {
		return nil
	}
	set := make([]byte, (len(files)+7)/8)
	t.mu.Lock()
	defer t.mu.Unlock()
	for line, f := range files {
		if i, missing := t.sums[f.Sum]; !missing || t.sched.items[i].done {
			set[line/8] |= 1 << (line % 8)
		}
	}
	return set
}

// learn takes what the peer says of the release: which files to ask it for, and
// whom to ask besides.
func (s *source) learn(h *holding) {
	if h == nil {
		return // it does not say
	}
	s.told = true
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sched.told(s.peer, h) {
		t.news = time.Now()
		s.dry = 0
	}
	if others := peersOf(h.Others); len(others) > 0 {
		t.sched.crowd()
		for i := range t.done { // what is waited for stays first
			t.sched.urgent(i)
		}
		t.addCrowd(others)
	}
	t.wake()
}

// addCrowd queues others that are fetching, too; the caller holds mu.
func (t *Transfer) addCrowd(ids []peer.ID) {
	for _, p := range ids {
		if !t.partial[p] && (len(t.partial) >= maxCrowd || slices.Contains(t.holders, p)) {
			continue
		}
		if t.addHolders([]peer.ID{p}); slices.Contains(t.holders, p) {
			t.partial[p] = true
		}
	}
}

// waitsFor reports whether p is to say what it has before it is asked for any of it.
func (t *Transfer) waitsFor(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.partial[p]
}

// replaceable reports whether p, which is fetching, can go for another holder.
func (t *Transfer) replaceable(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sched.fetching(p) && len(t.holders) > 0
}

// crowded reports whether there is hope for what nobody has yet who is asked: one of
// them is fetching, and got something not long ago; the caller holds mu.
func (t *Transfer) crowded() bool {
	for p := range t.sources {
		if t.sched.fetching(p) {
			return time.Since(t.news) < crowdPatience
		}
	}
	return false
}

// fetching reports whether p says that it is fetching, too.
func (s *sched) fetching(p peer.ID) bool {
	w := s.peers[p]
	return w != nil && w.holding != nil && !w.holding.Whole && len(w.holding.Have) > 0
}

// crowd makes what follows fit for many who fetch the same: no two of them in the
// same order, so that they have something to give to each other.
func (s *sched) crowd() {
	if s.crowded {
		return
	}
	s.crowded = true
	rand.Shuffle(len(s.queue), func(i, j int) { s.queue[i], s.queue[j] = s.queue[j], s.queue[i] })
}

// told notes what p says that it has, and reports whether that is more than before.
func (s *sched) told(p peer.ID, h *holding) (more bool) {
	w := s.peers[p]
	if w == nil {
		return false
	}
	more = h.Whole && (w.holding == nil || !w.holding.Whole)
	if len(h.Have) > 0 || h.Whole {
		clear(w.lacks)
	}
	count := 0
	for _, b := range h.Have {
		count += bits.OnesCount8(b)
	}
	more = more || count > w.has
	w.holding, w.has = h, count
	return more
}

// lacks reports whether w does not have the file at i, as far as is known.
func (s *sched) lacks(w *worker, i int) bool {
	return w.lacks[i] || !w.holding.has(s.items[i].line)
}

// rare reports whether nobody but those who have everything is known to have the
// file at i.
func (s *sched) rare(i int) bool {
	for p, w := range s.peers {
		if s.fetching(p) && w.holding.has(s.items[i].line) {
			return false
		}
	}
	return true
}
