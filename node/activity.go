package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
)

const (
	// recentEvents is how many of the last requests are remembered.
	recentEvents = 256
	// maxEventText bounds what is kept of a request's target or error, in bytes.
	maxEventText = 300
)

// Event is a request that was answered.
type Event struct {
	Seq     uint64        `json:"seq"` // counts the requests since the start
	Time    time.Time     `json:"time"`
	ID      string        `json:"id"` // of the request, as in the log
	What    string        `json:"what"`
	SumDB   bool          `json:"sumdb,omitempty"` // it was for a checksum database
	Status  int           `json:"status"`
	Source  string        `json:"source,omitempty"` // store, peer or upstream; empty for what is none
	From    string        `json:"from,omitempty"`   // the source with its name
	Bytes   int64         `json:"bytes"`
	Took    time.Duration `json:"took_ns"`
	Problem string        `json:"problem,omitempty"` // what the client was told instead of content
}

// Failed reports whether the request failed for a reason that is not its client's.
func (e Event) Failed() bool { return e.Status >= 500 || e.Status == 0 }

// Traffic is what was answered within a span of time.
type Traffic struct {
	Start    time.Time `json:"start"`
	Store    Tally     `json:"store"`
	Peer     Tally     `json:"peer"`
	Upstream Tally     `json:"upstream"`
	Failed   uint64    `json:"failed"`
	Received int64     `json:"received"` // bytes of zips that came from other offices, for copies too
}

// Tally counts answers with content and their bytes.
type Tally struct {
	Answers uint64 `json:"answers"`
	Bytes   int64  `json:"bytes"`
}

// Answers is how many had content.
func (t Traffic) Answers() uint64 { return t.Store.Answers + t.Peer.Answers + t.Upstream.Answers }

// Saved is how many bytes did not have to come from upstream.
func (t Traffic) Saved() int64 { return t.Store.Bytes + t.Peer.Bytes }

// add joins the traffic of two spans; the start stays.
func (t *Traffic) add(o Traffic) {
	t.Store.add(o.Store)
	t.Peer.add(o.Peer)
	t.Upstream.add(o.Upstream)
	t.Failed += o.Failed
	t.Received += o.Received
}

func (t *Tally) add(o Tally) {
	t.Answers += o.Answers
	t.Bytes += o.Bytes
}

// The spans that an office remembers: the last minutes closely, the last day
// roughly.
const (
	shortStep, shortSteps = 10 * time.Second, 60 // ten minutes
	longStep, longSteps   = 10 * time.Minute, 144
)

// activity remembers what an office was asked lately. It is bounded, and forgets
// with the process.
type activity struct {
	mu     sync.Mutex
	seq    uint64              // guarded by mu
	recent [recentEvents]Event // guarded by mu; a ring, seq 1 at place 1
	short  [shortSteps]Traffic // guarded by mu; rings by time
	long   [longSteps]Traffic  // guarded by mu
	now    func() time.Time    // time.Now, but for tests
}

func newActivity() *activity { return &activity{now: time.Now} }

// note takes in an answered request.
func (a *activity) note(o protocol.Observation) {
	e := Event{
		Time: a.now().UTC(), ID: o.ID, What: cutText(whatText(o.Request)), Status: o.Status,
		SumDB:  o.Request.Op == protocol.OpSumDB,
		Source: o.Source, From: o.From, Bytes: o.Bytes, Took: o.Duration,
	}
	if o.Err != nil {
		e.Problem = cutText(o.Err.Error())
	}
	if o.Cut {
		e.Status, e.Problem = 0, "cut off: the content failed midway"
	}
	var t Traffic
	switch tally := (Tally{1, o.Bytes}); {
	case e.Failed():
		t.Failed = 1
	case o.Source == fromStore:
		t.Store = tally
	case o.Source == fromPeer:
		t.Peer = tally
	case o.Source == fromUpstream:
		t.Upstream = tally
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	e.Seq = a.seq
	a.recent[a.seq%recentEvents] = e
	a.count(e.Time, t)
}

// received takes in that so many bytes came from other offices.
func (a *activity) received(bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count(a.now().UTC(), Traffic{Received: bytes})
}

// count adds to the rings. The caller holds mu.
func (a *activity) count(now time.Time, t Traffic) {
	at(a.short[:], shortStep, now).add(t)
	at(a.long[:], longStep, now).add(t)
}

// at is the place for a time in a ring of steps, emptied if it was for an older one.
func at(ring []Traffic, step time.Duration, now time.Time) *Traffic {
	start := now.Truncate(step)
	t := &ring[int(start.UnixNano()/int64(step))%len(ring)]
	if !t.Start.Equal(start) {
		*t = Traffic{Start: start}
	}
	return t
}

// since lists the requests after seq that are remembered, oldest first, at most n
// of the newest.
func (a *activity) since(seq uint64, n int) []Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	count := a.seq - min(seq, a.seq)
	count = min(count, recentEvents, uint64(max(n, 0)))
	list := make([]Event, 0, count)
	for i := a.seq - count + 1; i <= a.seq; i++ {
		list = append(list, a.recent[i%recentEvents])
	}
	return list
}

// History is the traffic of the last ten minutes and of the last day, oldest
// first, without gaps. It begins anew when the node does.
type History struct {
	Minutes []Traffic `json:"minutes"`
	Day     []Traffic `json:"day"`
}

func (a *activity) history() History {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now().UTC()
	return History{Minutes: unroll(a.short[:], shortStep, now), Day: unroll(a.long[:], longStep, now)}
}

// unroll lists a ring from its oldest step to now.
func unroll(ring []Traffic, step time.Duration, now time.Time) []Traffic {
	list := make([]Traffic, len(ring))
	for i := range list {
		start := now.Truncate(step).Add(-step * time.Duration(len(ring)-1-i))
		list[i].Start = start
		if t := ring[int(start.UnixNano()/int64(step))%len(ring)]; t.Start.Equal(start) {
			list[i] = t
		}
	}
	return list
}

// whatText writes a request for people, without the host and the query.
func whatText(r protocol.Request) string {
	switch r.Op {
	case protocol.OpFile:
		return r.Name.String()
	case protocol.OpQuery:
		return r.Path + "@" + r.Query
	case protocol.OpList:
		return r.Path + " versions"
	case protocol.OpLatest:
		return r.Path + "@latest"
	case protocol.OpSumDB:
		return r.Database + " " + r.Sub
	}
	return "no module" // what was asked for instead, the answer says
}

func cutText(s string) string {
	if len(s) <= maxEventText {
		return s
	}
	return s[:maxEventText] + "…"
}

// Events lists the requests after seq that are remembered, oldest first, at most
// n of the newest.
func (n *Node) Events(seq uint64, most int) []Event { return n.activity.since(seq, most) }

// History is the traffic of this office since it started, a day at most.
func (n *Node) History() History { return n.activity.history() }

// observe takes in an answered request.
func (n *Node) observe(o protocol.Observation) {
	n.activity.note(o)
	n.requests.note(o)
	if !n.log.Enabled(context.Background(), slog.LevelDebug) {
		return // most offices, and each word below costs
	}
	n.log.Debug("answered", "request", o.ID, "what", whatText(o.Request), "status", o.Status, "from", o.From, "bytes", o.Bytes, "took", o.Duration)
}
