package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// maxAsked bounds the members that are asked about one batch of names besides
// home peers: in a large mesh home peers know, and asking everybody costs
// everybody.
const maxAsked = 16

// maxVariants bounds the different statements about one name that are returned.
const maxVariants = 4

// Found is what members said about one name.
type Found struct {
	Name     verify.Name
	Records  []*verify.Signed // distinct statements, each with a good signature; whether they are true is not checked
	Senders  []peer.ID        // of each of Records, the member that handed it over
	Holders  []peer.ID        // members that hold the bytes, best first, by their own word or another's
	Own      []peer.ID        // those of them who said so themselves, just now
	Fetching peer.ID          // the member that a home peer told to fetch it; "" is nobody
	Answered int              // members that answered about this name; 0 means that nobody was reached
	Asked    int              // members that were asked
}

// RecordsOptions says more about a question.
type RecordsOptions struct {
	Related bool      // also ask which go.mod files those found require, see Reply.Related
	Near    bool      // with Related: also which came to a peer about when those found did
	Except  []peer.ID // peers not to ask: their records did not convince
	All     bool      // wait for every peer within the budget, not just for the first full answer
	Brief   bool      // ask for no records, only who has them; with All
	Patient bool      // nobody else can be asked: wait longer for connected peers while names are unknown
}

// Reply is the answer to a batch of names.
type Reply struct {
	Found   []Found          // in the order of the names
	Related []module.Version // go.mod files that a peer holds and that those found require, or came with; a hint
}

// Records asks home peers and connected members about many names in one round
// trip, or two if only an unexpected peer knows. It waits for the round trip plus
// Config.Budget; longer only while no member has answered at all, or if it is told
// to be patient, and then by lastResort or patientResort at most, for those that a
// connection is open to. The error is ErrUnreached if no member answered
// about any name; otherwise Found.Answered tells for each.
func (x *Exchange) Records(ctx context.Context, names []verify.Name, o RecordsOptions) (*Reply, error) {
	if len(names) > maxNames {
		return nil, fmt.Errorf("records of %d names: at most %d in one question", len(names), maxNames)
	}
	ctx, cancel := x.within(ctx)
	defer cancel()
	q := newInquiry(names, o)
	live, connected := x.others(o.Patient)
	live, connected = except(live, o.Except), x.health.rank(except(connected, o.Except))
	x.round(ctx, q, x.plan(q, live, connected))
	if second := q.secondPlan(); len(second) > 0 {
		x.round(ctx, q, second)
	}
	for i := range q.found {
		q.found[i].Holders = x.health.rank(q.found[i].Holders)
		x.noteHolders(&q.found[i])
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(names) > 0 && q.answered == 0 {
		return nil, fmt.Errorf("records of %d names: %d members asked: %w", len(names), q.asked, ErrUnreached)
	}
	return &Reply{Found: q.found, Related: q.relatedList()}, nil
}

// noteHolders remembers who said to hold a zip: the record may be all that is wanted
// now, and the files be asked for later.
func (x *Exchange) noteHolders(f *Found) {
	if f.Name.Kind != verify.Zip || len(f.Records) == 0 {
		return
	}
	for _, p := range slices.Backward(f.Own) {
		x.holders.add(f.Records[0].Record.Digest, p)
	}
}

func except(ids, not []peer.ID) []peer.ID {
	return slices.DeleteFunc(slices.Clone(ids), func(p peer.ID) bool { return slices.Contains(not, p) })
}

// question is what one peer is asked: indices of names.
type question struct {
	full, brief []int
	related     bool
	near        bool
	holding     bool  // this node holds the bytes of all in brief
	class       Class //
	resort      time.Duration
	counted     map[int]bool // names that the peer answered about
}

// inquiry is the state of one call of Records. Only the calling goroutine uses it.
type inquiry struct {
	opts     RecordsOptions
	found    []Found
	said     map[int][]peer.ID // who said in brief to have a record
	related  map[module.Version]bool
	asked    int
	answered int // peers that said anything
	waiting  int // peers that are to name related files, and have not done yet
}

func newInquiry(names []verify.Name, o RecordsOptions) *inquiry {
	q := &inquiry{opts: o, found: make([]Found, len(names)), said: map[int][]peer.ID{}, related: map[module.Version]bool{}}
	for i, n := range names {
		q.found[i].Name = n
	}
	return q
}

// plan says whom to ask what: for each name one peer in full, the best of the
// home peers if one is connected, and home peers and connected members in brief,
// so that a record crosses the link once. Who may not learn of a module is not
// asked about it.
func (x *Exchange) plan(q *inquiry, live, connected []peer.ID) map[peer.ID]*question {
	ring := newRing(live)
	rank := map[peer.ID]int{} // connected ones only
	for i, p := range connected {
		rank[p] = i
	}
	plan := map[peer.ID]*question{}
	homesOf := map[string][]peer.ID{}
	for i := range q.found {
		key, path := homeKey(q.found[i].Name), q.found[i].Name.Module.Path
		home, ok := homesOf[key]
		if !ok {
			home = x.homes(ring, key, path, x.cfg.Homes)
			homesOf[key] = home
		}
		near := x.sharing(connected, path)
		near = near[:min(len(near), maxAsked)]
		peers := union(home, near)
		if len(peers) == 0 {
			continue
		}
		q.found[i].Asked = len(peers)
		full := peer.ID("")
		if !q.opts.Brief {
			full = bestOf(home, near, rank)
		}
		for _, p := range peers {
			put(plan, p, i, p == full, q.opts.Related)
		}
	}
	return plan
}

func put(plan map[peer.ID]*question, p peer.ID, i int, full, related bool) {
	if plan[p] == nil {
		plan[p] = &question{}
	}
	if full {
		plan[p].full = append(plan[p].full, i)
		plan[p].related = related
	} else {
		plan[p].brief = append(plan[p].brief, i)
	}
}

// bestOf chooses who is asked in full: the first home peer that is connected and
// not much worse than the best, else the best connected member, else a home peer.
func bestOf(home, near []peer.ID, rank map[peer.ID]int) peer.ID {
	best, at := peer.ID(""), len(rank)
	for _, p := range home {
		if r, ok := rank[p]; ok && r < at {
			best, at = p, r
		}
	}
	switch {
	case best != "":
		return best
	case len(near) > 0:
		return near[0]
	}
	return home[0]
}

func union(a, b []peer.ID) []peer.ID {
	all := slices.Clone(a)
	for _, p := range b {
		if !slices.Contains(a, p) {
			all = append(all, p)
		}
	}
	return all
}

// secondPlan asks for the records that only a peer asked in brief turned out to
// have, of two such peers if there are two.
func (q *inquiry) secondPlan() map[peer.ID]*question {
	plan := map[peer.ID]*question{}
	if q.opts.Brief {
		return plan
	}
	for i, said := range q.said {
		if len(q.found[i].Records) > 0 {
			continue
		}
		for _, p := range said[:min(len(said), 2)] {
			put(plan, p, i, true, q.opts.Related)
			plan[p].counted = map[int]bool{}
		}
	}
	for _, w := range plan {
		for _, i := range w.full {
			w.counted[i] = true // in the first round
		}
	}
	return plan
}

// settled reports whether waiting for more peers would only add to what is
// known well enough.
func (q *inquiry) settled() bool {
	if q.opts.All || q.waiting > 0 {
		return false
	}
	for i := range q.found {
		f := &q.found[i]
		if len(f.Records) == 0 || (f.Name.Kind == verify.Zip && len(f.Holders) == 0) {
			return false
		}
	}
	return true
}

// enough reports whether what is known will do when the budget is spent and peers
// have not answered: there is another way for what nobody knows, but not for a
// question that reached nobody.
func (q *inquiry) enough() bool {
	if q.answered == 0 {
		return false
	}
	return !q.opts.Patient || !slices.ContainsFunc(q.found, func(f Found) bool { return len(f.Records) == 0 })
}

// heard is one message of a peer, or its last word.
type heard struct {
	from  peer.ID
	entry *recordsEntry
	rec   *verify.Signed
	index int
	end   bool
	err   error
}

// round asks all peers of a plan at once and takes in their answers until all
// have answered, time is up, or everything is settled.
func (x *Exchange) round(ctx context.Context, q *inquiry, plan map[peer.ID]*question) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in := make(chan heard, 64)
	open := 0
	q.waiting = 0
	budget := time.Duration(0)
	for p, w := range plan {
		w.resort, w.near = q.opts.resort(), q.opts.Near
		budget = max(budget, x.patience(p, len(w.full)))
		if x.start(func() { x.askRecords(ctx, p, q.found, w, in) }) {
			open++
			q.asked++
			if w.related {
				q.waiting++
			}
		}
	}
	spent := time.NewTimer(budget)
	defer spent.Stop()
	late := false
	for open > 0 {
		select {
		case h := <-in: // each asker ends in time, and says so
			if h.end {
				open--
			}
			q.hear(h, plan[h.from])
		case <-spent.C:
			late = true
		}
		switch {
		case q.settled():
			cancel(nil) // the askers still end, but at once
		case late && q.enough():
			cancel(errLate)
		}
	}
}

// hear takes in what one peer said.
func (q *inquiry) hear(h heard, w *question) {
	if !h.end {
		q.take(h, w)
		return
	}
	if w.related {
		q.waiting--
	}
	if h.err == nil { // what it did not mention it does not know
		w.answered(q, slices.Concat(w.full, w.brief)...)
	}
}

// answered counts the peer among those that answered about names.
func (w *question) answered(q *inquiry, names ...int) {
	if w.counted == nil {
		w.counted = map[int]bool{}
		q.answered++
	}
	for _, i := range names {
		if !w.counted[i] {
			w.counted[i] = true
			q.found[i].Answered++
		}
	}
}

// take adds one entry to what is known.
func (q *inquiry) take(h heard, w *question) {
	for _, r := range h.entry.Related[:min(len(h.entry.Related), maxRelated)] {
		if n, err := r.name(); err == nil {
			q.related[n.Module] = true
		}
	}
	if h.index < 0 {
		return
	}
	w.answered(q, h.index)
	f := &q.found[h.index]
	if h.rec != nil && len(f.Records) < maxVariants && !slices.ContainsFunc(f.Records, func(s *verify.Signed) bool {
		return s.Record.Digest == h.rec.Record.Digest
	}) {
		f.Records = append(f.Records, h.rec)
		f.Senders = append(f.Senders, h.from)
	}
	if h.rec == nil && len(h.entry.Digest) > 0 {
		q.said[h.index] = append(q.said[h.index], h.from)
	}
	holders := peersOf(h.entry.Holders)
	if h.entry.Held {
		holders = append([]peer.ID{h.from}, holders...)
		f.Own = union(f.Own, holders[:1])
	}
	f.Holders = union(f.Holders, holders)
	if p, ok := peerOf(h.entry.Fetching); ok && f.Fetching == "" {
		f.Fetching = p
	}
}

func (q *inquiry) relatedList() []module.Version {
	for i := range q.found {
		if len(q.found[i].Records) > 0 && q.found[i].Name.Kind == verify.Mod {
			delete(q.related, q.found[i].Name.Module)
		}
	}
	list := slices.Collect(maps.Keys(q.related))
	module.Sort(list)
	return list
}

// askRecords asks one peer and sends what it says to out, ending with its end.
func (x *Exchange) askRecords(ctx context.Context, p peer.ID, names []Found, w *question, out chan<- heard) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, x.resort(p, len(w.full), w.resort))
	defer cancel()
	err := x.askRecordsOf(ctx, p, names, w, out)
	switch {
	case err == nil:
		if len(w.full) < 8 {
			x.health.answered(p, time.Since(start))
		}
	case errors.Is(err, verify.ErrRecord):
		x.liar(p, err)
	case errors.Is(err, context.DeadlineExceeded), isLate(ctx):
		x.health.late(p)
	}
	out <- heard{from: p, end: true, err: err}
}

func (x *Exchange) askRecordsOf(ctx context.Context, p peer.ID, names []Found, w *question, out chan<- heard) (err error) {
	l, stop, err := x.ask(ctx, p, RecordsID, w.class)
	if err != nil {
		return err
	}
	defer func() { stop(err) }()
	req := recordsRequest{Related: w.related, Near: w.related && w.near, Holding: w.holding, Trace: l.traceparent()}
	for _, i := range w.full {
		req.Full = append(req.Full, toWire(names[i].Name))
	}
	for _, i := range w.brief {
		req.Brief = append(req.Brief, toWire(names[i].Name))
	}
	if err := l.send(&req, maxRequest); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	for range len(w.full) + len(w.brief) + 1 {
		h := heard{from: p, entry: new(recordsEntry), index: -1}
		if err := l.recv(h.entry, maxEntry); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := h.check(names, w); err != nil {
			return err
		}
		out <- h // round reads until every asker has ended
		if h.entry.End {
			return nil
		}
	}
	return fmt.Errorf("%v answered more than it was asked", p)
}

// check opens the record in an entry and sees that it is about the name asked.
func (h *heard) check(names []Found, w *question) error {
	e := h.entry
	if e.End {
		return nil
	}
	asked := w.full
	if e.Brief {
		asked = w.brief
	}
	if int(e.Index) >= len(asked) {
		return fmt.Errorf("answer to question %d of %d", e.Index, len(asked))
	}
	h.index = asked[e.Index]
	if len(e.Envelope) == 0 {
		return nil
	}
	s, err := verify.OpenSigned(e.Envelope)
	if err != nil {
		return err
	}
	if s.Record.Name != names[h.index].Name {
		return fmt.Errorf("asked for %v, got a record of %v: %w", names[h.index].Name, s.Record.Name, verify.ErrRecord)
	}
	h.rec = s
	return nil
}
