package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/node/policy"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

const (
	// trailMemory is how long it is remembered what clients asked for: the steps of
	// one run of the go command follow each other sooner.
	trailMemory = time.Minute
	maxTrail    = 4096 // steps remembered
	// nearPause is how long no other office is asked what came along with a go.mod once
	// one was: there may be a thousand files that nobody wants.
	nearPause = 10 * time.Second
	// nearBefore and nearAfter are how far apart files that came together may be.
	nearBefore, nearAfter = 15 * time.Second, time.Minute
	// maxCompany is how many modules' records come along with the first .info.
	maxCompany = 500
	// manyMods is how many go.mod files in a row tell that a client reads a module graph;
	// the records of their modules come along then, and each time there are twice as many.
	manyMods = 16
	// minWindow and maxWindow are how far beyond a zip that is asked for others are
	// read: less when what was read ahead turns out not to be asked for, twice as much
	// when it is. A whole project fits, so that its line is never idle.
	minWindow, maxWindow = 2, 1024
	// maxSkipped is how many steps may be passed over before the guess counts as wrong:
	// a client asks for as many zips at once as its machine has cores, in any order.
	maxSkipped = 16
	// manyInfos is how many .info in a row, with no zip between them, tell that the go
	// command will ask for their zips, and firstWindow how many of these are read
	// before it does: a line that is far away has nothing else to do meanwhile.
	manyInfos, firstWindow = 8, 16
	// aheadSlots is how many zips are read ahead at a time. Most are small and take two
	// round trips whatever the line could carry meanwhile. All may come from one office,
	// which allows three times as many streams and resets what is above.
	aheadSlots = 32
	// aheadBytes bounds the files of the zips that are read ahead at a time, in bytes
	// as the records tell them, before compression. A larger zip waits to be asked for:
	// its client is given it while it arrives.
	aheadBytes = 64 << 20
)

// ahead foresees what clients ask for. The go command says in advance what it is
// about to do: "go mod download" asks for the go.mod of every module, then for every
// .info, then for every zip in the order of the .info, each time for only as many at
// once as the client's machine has cores. Across a wide area network that is a round
// trip for each. So the records of modules whose go.mod was asked for come along with
// the first .info; go.mod files that another office got for one build come together, as
// soon as one of them is asked for; and while zips are asked for in the order of earlier .info, those
// that are due next are read from other offices before their turn. Nothing is fetched
// from an upstream for it.
type ahead struct {
	now func() time.Time // time.Now, but for tests

	mu      sync.Mutex
	mods    trail                    // guarded by mu; modules by their go.mod
	infos   trail                    // guarded by mu; by their .info
	front   int                      // guarded by mu; step of infos after the zip asked for last
	window  int                      // guarded by mu; steps from front on that may be read
	hits    int                      // guarded by mu; zips asked for since the window was last moved elsewhere
	skipped int                      // guarded by mu; steps before front since then whose zip was not
	row     int                      // guarded by mu; steps of infos since a zip was asked for
	graph   int                      // guarded by mu; steps of mods since an .info or zip was asked for
	learned time.Time                // guarded by mu; when a go.mod last came from another office
	near    time.Time                // guarded by mu; when it was last asked what came with a file
	under   map[verify.Name]*reading // guarded by mu; zips being read ahead
	bytes   int64                    // guarded by mu; of those, as their records say
}

// reading is a zip that is being read ahead.
type reading struct {
	size   int64
	wanted bool // a client has come to wait for it
}

func newAhead() *ahead {
	return &ahead{under: make(map[verify.Name]*reading), window: minWindow, now: time.Now}
}

// begins reports whether a question about a go.mod may be the first of a build, whose
// other files are then asked for as far as they came to the answerer at the same time.
func (a *ahead) begins() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if !a.near.IsZero() && now.Sub(a.near) < nearPause {
		return false
	}
	a.near = now
	return true
}

// foreseen is what is to be done because of what a client asks for.
type foreseen struct {
	zips    bool             // read those that are due
	company []module.Version // the records of these are to come along
}

// asked notes that a client asks for a file.
func (a *ahead) asked(name verify.Name) (next foreseen) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if name.Kind == verify.Mod {
		if a.mods.add(name.Module, now) {
			next.company = a.loading(now)
		}
		return next
	}
	a.graph = 0
	if name.Kind == verify.Info {
		next.zips = a.infos.add(name.Module, now) && a.announce()
		return next
	}
	if r := a.under[name]; r != nil {
		r.wanted = true
	}
	next.zips = a.advance(name.Module, now)
	return next
}

// learn notes that a go.mod came from another office: what a client reads now is new
// here, and so are the other files of those modules.
func (a *ahead) learn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.learned = a.now()
}

// loading counts a new step of mods, and takes the modules whose records are to come
// along before anybody asks for an .info; a.mu is held.
func (a *ahead) loading(now time.Time) []module.Version {
	a.graph++
	if a.graph < manyMods || a.graph&(a.graph-1) != 0 || now.Sub(a.learned) >= trailMemory {
		return nil
	}
	return a.mods.untaken(a.mods.first, maxTrail, maxCompany, now, true)
}

// announce counts a new step of infos, and reports whether there have been so many
// that their zips will follow. Then the window is behind the first of them; a.mu is held.
func (a *ahead) announce() bool {
	if a.row++; a.row != manyInfos {
		return false
	}
	a.front = a.infos.first + len(a.infos.steps) - manyInfos
	a.window, a.hits, a.skipped = firstWindow, 0, 0
	return true
}

// advance moves the window behind the zip of m; a.mu is held.
func (a *ahead) advance(m module.Version, now time.Time) bool {
	a.row = 0
	i, ok := a.infos.at[m]
	if !ok || a.infos.stale(i, now) {
		return false
	}
	s := &a.infos.steps[i-a.infos.first]
	again := s.asked
	s.asked, s.taken = true, true // it is asked for now, and not ahead of anything
	switch {
	case again:
		return true
	case i >= a.front && i < a.front+a.window:
		a.skipped += i - a.front
		a.front = i + 1
	case i < a.front && a.skipped > 0: // one of those
		a.skipped--
	default: // the client is elsewhere
		a.front, a.hits, a.skipped = i+1, 0, 0
		a.window = max(a.window/2, minWindow)
		return true
	}
	if a.hits++; a.skipped > maxSkipped+a.hits/4 {
		a.window = max(a.window/2, minWindow)
	} else {
		a.window = min(2*a.window, maxWindow)
	}
	return true
}

// company takes the modules whose records may come along with those of m, which a
// client asks for the .info of: each comes along once.
func (a *ahead) company(m module.Version) []module.Version {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, ok := a.mods.at[m]; ok {
		a.mods.steps[i-a.mods.first].taken = true
	}
	return a.mods.untaken(a.mods.first, maxTrail, maxCompany, a.now(), true)
}

// due lists modules whose zips are next to be read.
func (a *ahead) due() []module.Version {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.under) >= aheadSlots {
		return nil
	}
	return a.infos.untaken(a.front, a.window, a.window, a.now(), false)
}

// begin takes a zip to be read, of size bytes; false if there is no room for it now,
// or it was taken before. Otherwise end must follow.
func (a *ahead) begin(name verify.Name, size int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.infos.at[name.Module]
	if !ok || a.infos.steps[i-a.infos.first].taken || len(a.under) >= aheadSlots || a.bytes+size > aheadBytes {
		return false
	}
	a.infos.steps[i-a.infos.first].taken = true
	a.under[name] = &reading{size: size}
	a.bytes += size
	return true
}

// pass takes a step that needs no reading.
func (a *ahead) pass(m module.Version) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, ok := a.infos.at[m]; ok {
		a.infos.steps[i-a.infos.first].taken = true
	}
}

// wanted reports whether a client waits for a zip that is being read.
func (a *ahead) wanted(name verify.Name) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.under[name]
	return r != nil && r.wanted
}

func (a *ahead) end(name verify.Name) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.under[name]; r != nil {
		a.bytes -= r.size
		delete(a.under, name)
	}
}

// trail is module versions in the order in which they were asked for lately.
type trail struct {
	steps []step // at most maxTrail
	first int    // number of steps[0], counted from the start
	at    map[module.Version]int
}

type step struct {
	mod   module.Version
	when  time.Time
	taken bool // it was acted upon
	asked bool // a client asked for the zip
}

// add notes that m is asked for, and reports whether that is a step. What was asked
// for lately keeps its place: several clients may be on the same way.
func (t *trail) add(m module.Version, now time.Time) bool {
	if i, ok := t.at[m]; ok && !t.stale(i, now) {
		return false
	}
	if len(t.steps) >= maxTrail {
		t.forget(maxTrail / 2)
	}
	if t.at == nil {
		t.at = make(map[module.Version]int)
	}
	t.at[m] = t.first + len(t.steps)
	t.steps = append(t.steps, step{mod: m, when: now})
	return true
}

// forget drops the first n steps.
func (t *trail) forget(n int) {
	for i, s := range t.steps[:n] {
		if t.at[s.mod] == t.first+i {
			delete(t.at, s.mod)
		}
	}
	t.steps, t.first = slices.Clone(t.steps[n:]), t.first+n
}

// stale reports whether step i was made too long ago to count.
func (t *trail) stale(i int, now time.Time) bool {
	return now.Sub(t.steps[i-t.first].when) >= trailMemory
}

// untaken lists the modules of at most limit of span steps, from number from on, that
// were made lately and not taken; with take, they are taken.
func (t *trail) untaken(from, span, limit int, now time.Time, take bool) (mods []module.Version) {
	from = max(from, t.first)
	for i := from; i < min(from+span, t.first+len(t.steps)) && len(mods) < limit; i++ {
		s := &t.steps[i-t.first]
		if s.taken || t.stale(i, now) {
			continue
		}
		s.taken = take
		mods = append(mods, s.mod)
	}
	return mods
}

// errAhead ends the work for a zip that was read ahead and that no other office gave.
var errAhead = errors.New("no other office gave it, and nobody waits for it")

// foresee notes what a client asks for, and begins to read what it will ask for.
func (n *Node) foresee(ctx context.Context, name verify.Name) {
	if protocol.Hops(ctx) != "" {
		return
	}
	next := n.foreseen.asked(name)
	if len(next.company) > 0 {
		n.accompany(next.company)
	}
	if next.zips {
		n.readAhead()
	}
}

// readAhead begins to read the zips that are due, as far as there is room.
func (n *Node) readAhead() {
	for _, m := range n.foreseen.due() {
		name := verify.Name{Module: m, Kind: verify.Zip}
		signed, err := n.store.Record(name)
		if err != nil && n.following.follows(name) {
			continue // its record is on its way
		}
		if err != nil || n.store.HasZip(signed.Record.Digest) || !n.collects(m) {
			n.foreseen.pass(m)
			continue
		}
		if !n.foreseen.begin(name, signed.Record.Size) {
			continue
		}
		var span trace.Span
		start := func() trace.SpanContext {
			_, span = n.own(context.Background(), "ahead", name.String())
			return span.SpanContext()
		}
		started := n.arrivals.begin(name.String(), zipLimit, start, func(ctx context.Context, publish func(any)) (origin, error) {
			defer n.readAhead()
			defer n.foreseen.end(name)
			from, err := n.obtainAhead(trace.ContextWithSpan(ctx, span), name, publish)
			sourced(span, from, err)
			return from, err
		})
		if !started { // a client was faster
			n.foreseen.end(name)
		}
	}
}

// collects reports whether modules are obtained for clients here without further ado.
func (n *Node) collects(m module.Version) bool {
	g := guard{n}
	return g.admissible(m) == nil && g.download(m.Path).Mode == policy.Sync
}

// obtainAhead brings a zip from another office. The error is errAhead if none gives
// it, unless a client has come to wait: then it is obtained as for any client.
func (n *Node) obtainAhead(ctx context.Context, name verify.Name, publish func(any)) (from origin, err error) {
	e := errand{Node: n, name: name, class: exchange.Prefetch, publish: publish}
	defer func() { e.land(err) }()
	start := time.Now()
	from, err = e.fromMesh(ctx)
	if err != nil && !n.foreseen.wanted(name) {
		n.log.Debug("not read ahead", "file", name.String(), "err", err)
		return origin{}, errors.Join(errAhead, err)
	}
	if err != nil {
		from, err = e.firstFetch(ctx, err)
	}
	if err == nil {
		n.log.Info("obtained", "file", name.String(), "ahead", true, "from", from.String(), "took", time.Since(start))
	}
	return from, err
}

// company has the records come along that a client will ask for which asks for the
// .info of m.
func (n *Node) company(m module.Version) { n.accompany(n.foreseen.company(m)) }

// accompany has the records of .info and zips come along that other offices have.
func (n *Node) accompany(mods []module.Version) {
	names := make([]verify.Name, 0, 2*len(mods))
	for _, other := range mods {
		names = append(names, verify.Name{Module: other, Kind: verify.Info}, verify.Name{Module: other, Kind: verify.Zip})
	}
	if a := n.following.claim(n.unrecorded(names)); !n.questions.later(func(ctx context.Context) { n.follow(ctx, a) }) {
		n.following.done(a, names...)
	}
}

// near lists at most limit module versions that came here about when a file did that
// this office was the first to fetch. Of what was fetched elsewhere, it is not known
// here when a build wanted it.
func (n *Node) near(name verify.Name, limit int) []module.Version {
	signed, err := n.store.Record(name)
	if err != nil {
		return nil
	}
	at := signed.Record.Fetched
	arrivals, err := n.store.Index(at.Add(-nearBefore), 2*limit)
	if err != nil {
		n.log.Warn("cannot list what came with a file", "file", name.String(), "err", err)
		return nil
	}
	arrivals = slices.DeleteFunc(arrivals, func(a store.Arrival) bool { return a.At.After(at.Add(nearAfter)) })
	if !slices.ContainsFunc(arrivals, func(a store.Arrival) bool { return a.Module == name.Module }) {
		return nil
	}
	slices.SortStableFunc(arrivals, func(a, b store.Arrival) int {
		return cmp.Compare(a.At.Sub(at).Abs(), b.At.Sub(at).Abs())
	})
	var mods []module.Version
	for _, a := range arrivals[:min(len(arrivals), limit+1)] {
		if a.Module != name.Module && len(mods) < limit {
			mods = append(mods, a.Module)
		}
	}
	return mods
}
