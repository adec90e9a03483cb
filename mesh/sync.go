package mesh

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// How rosters spread.
const (
	gossipPause = 50 * time.Millisecond // gathers changes that come together
	gossipMost  = time.Minute           // between news that can wait
	// gossipShare is the part of it for each member, so that all of them together tell
	// forty times a second at most, however many they are.
	gossipShare  = gossipFanout * time.Second / 40
	gossipFanout = 8                // members told of what another one told
	gossipEvery  = 15 * time.Second // with one member, whatever happened
	gossipAtOnce = 32               // exchanges at one time
	syncRounds   = 64               // exchanges until two rosters agree
)

// syncWith exchanges with p until both have the same, or no exchange brings
// anything new.
func (m *Mesh) syncWith(ctx context.Context, p peer.ID) error {
	done := m.syncs.DoChan(string(p), func() (any, error) {
		ctx, cancel := context.WithTimeout(m.ctx, syncTime)
		defer cancel()
		var asked []member.Key // what p wants to hear of, told in the next exchange
		for range syncRounds {
			again, wanted, err := m.syncOnce(ctx, p, asked)
			if err != nil || !again && (asked != nil || !m.peers.knowsAny(wanted)) {
				return nil, err
			}
			asked = wanted
		}
		return nil, nil
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// syncOnce makes one exchange, and tells about the members in asked; again says that
// there was more than fits in one, and wanted whom p asks about.
func (m *Mesh) syncOnce(ctx context.Context, p peer.ID, asked []member.Key) (again bool, wanted []member.Key, err error) {
	defer func() {
		if err != nil {
			m.peers.forget(p) // nobody knows what has arrived
		}
	}()
	s, err := m.members.NewStream(network.WithNoDial(ctx, "sync on an open connection"), p, protocolRoot+syncID)
	if err != nil {
		return false, nil, fmt.Errorf("sync: %w", err)
	}
	w, err := newWire(ctx, s, syncTime)
	if err != nil {
		return false, nil, err
	}
	defer func() { w.close(err) }()
	open, arrivals := m.opening(p, asked)
	if err := w.send(open); err != nil {
		return false, nil, err
	}
	var have syncHave
	if err := w.receive(maxSyncHave, &have); err != nil {
		return false, nil, err
	}
	news := m.hearFrom(p, have.Hints, have.Zips, have.Time)
	have.Missing = have.Missing[:min(len(have.Missing), maxHints)]
	if have.Same {
		m.peers.hasAll(p, arrivals)
		return news && m.peers.blank(), have.Missing, nil
	}
	again, grown, err := m.reconcile(w, p, have.IDs)
	return again || (news || grown) && m.peers.blank(), have.Missing, err
}

// opening is what an exchange with p begins with, and how many arrivals the roster
// then had.
func (m *Mesh) opening(p peer.ID, asked []member.Key) (syncOpen, uint64) {
	upTo := m.peers.upTo(p)
	open := syncOpen{Hints: m.peers.news(p, asked), Zips: m.holds.count(), Time: time.Now().Unix(), Missing: m.peers.missing()}
	m.mu.Lock()
	defer m.mu.Unlock()
	open.Sum = m.roster.Sum()
	if upTo > 0 {
		open.Fresh = m.roster.Since(upTo, freshBudget)
	}
	return open, m.roster.Arrivals()
}

// hearFrom takes what p says beside statements, and reports whether it told of new
// addresses.
func (m *Mesh) hearFrom(p peer.ID, hints []member.Hint, zips *uint32, at int64) bool {
	m.peers.toldZips(p, zips)
	m.peers.toldTime(p, at)
	return m.peers.hear(p, hints[:min(len(hints), heardHints)])
}

// reconcile gives p what it does not have of the roster, and takes what it has more;
// grown says that there was any.
func (m *Mesh) reconcile(w *wire, p peer.ID, theirs []member.ID) (again, grown bool, err error) {
	give, arrivals, more := m.compare(theirs)
	if err := w.send(give); err != nil {
		return false, false, err
	}
	var given syncGive
	if err := w.receive(maxSyncGive, &given); err != nil {
		return false, false, err
	}
	if !more {
		m.peers.hasAll(p, arrivals)
	}
	grown = m.accept(p, given.Statements)
	return more || len(given.Want) > 0, grown, nil
}

// serveSync answers a member's exchange.
func (m *Mesh) serveSync(s network.Stream) {
	session := m.session.Load()
	if !session.syncs.TryAcquire(1) {
		s.Reset()
		return
	}
	defer session.syncs.Release(1)
	w, err := newWire(m.ctx, s, syncTime)
	if err != nil {
		return
	}
	p := s.Conn().RemotePeer()
	err = m.answerSync(w, p)
	w.close(err)
	if err != nil {
		m.peers.forget(p) // nobody knows what has arrived
		m.log.Debug("sync", "peer", p, "err", err)
	}
}

func (m *Mesh) answerSync(w *wire, p peer.ID) error {
	var open syncOpen
	if err := w.receive(maxSyncHave, &open); err != nil {
		return err
	}
	m.hearFrom(p, open.Hints, open.Zips, open.Time)
	m.accept(p, open.Fresh[:min(len(open.Fresh), maxGiven)])
	have := syncHave{
		Hints: m.peers.news(p, open.Missing), Zips: m.holds.count(), Time: time.Now().Unix(), Missing: m.peers.missing(),
	}
	m.mu.Lock()
	arrivals := m.roster.Arrivals()
	if have.Same = m.roster.Sum() == open.Sum; !have.Same {
		have.IDs = m.roster.IDs()
	}
	m.mu.Unlock()
	if err := w.send(have); err != nil {
		return err
	}
	if have.Same {
		m.peers.hasAll(p, arrivals)
		return nil
	}
	return m.answerGive(w, p, arrivals)
}

// answerGive takes what p gives after it has seen the IDs that this node had after so
// many arrivals, and gives it what it wants.
func (m *Mesh) answerGive(w *wire, p peer.ID, arrivals uint64) error {
	var given syncGive
	if err := w.receive(maxSyncGive, &given); err != nil {
		return err
	}
	m.accept(p, given.Statements)
	wanted := make(map[member.ID]bool, len(given.Want))
	for _, id := range given.Want {
		wanted[id] = true
	}
	m.mu.Lock()
	all := m.roster.Statements(func(id member.ID) bool { return wanted[id] })
	m.mu.Unlock()
	fit, more := within(all, giveBudget)
	reply := syncGive{Statements: fit}
	if more {
		reply.Want = given.Want[:1] // anything says: come again
	}
	if err := w.send(reply); err != nil {
		return err
	}
	if !more {
		m.peers.hasAll(p, arrivals)
	}
	return nil
}

// compare says what to give to one who has theirs, and what to want of it; and the
// arrivals up to which it then has all, unless there is more.
func (m *Mesh) compare(theirs []member.ID) (_ syncGive, arrivals uint64, more bool) {
	slices.SortFunc(theirs, member.ID.Compare)
	m.mu.Lock()
	defer m.mu.Unlock()
	ours := m.roster.IDs()
	lacks := func(ids []member.ID, id member.ID) bool {
		_, ok := slices.BinarySearchFunc(ids, id, member.ID.Compare)
		return !ok
	}
	var give syncGive
	for _, id := range theirs[:min(len(theirs), maxGiven)] {
		if lacks(ours, id) {
			give.Want = append(give.Want, id)
		}
	}
	fit, more := within(m.roster.Statements(func(id member.ID) bool { return lacks(theirs, id) }), giveBudget)
	give.Statements = fit
	return give, m.roster.Arrivals(), more
}

// within cuts statements off at a number of bytes.
func within(all []member.Statement, limit int) (fit []member.Statement, more bool) {
	size := 0
	for i, s := range all {
		if size += s.Size(); size > limit && i > 0 || i >= maxGiven {
			return all[:i], true
		}
	}
	return all, false
}

// gossipLoop tells others when the roster has changed, and one of them from time
// to time.
func (m *Mesh) gossipLoop(ctx context.Context) error {
	var told time.Time // when news was told last
	for {
		pause := gossipEvery/2 + rand.N(gossipEvery)
		fanout, whom := 1, m.Connected
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			if m.holds.news() {
				fanout = gossipFanout
			}
		case <-m.changed:
			if err := m.gather(ctx, told.Add(calm(m.view.Load().Len()))); err != nil {
				return err
			}
			fanout, whom, told = gossipFanout, m.behind, time.Now()
		}
		m.tell(ctx, whom(), fanout, m.syncWith)
	}
}

// calm is how long a mesh of so many members waits between news that can wait.
func calm(members int) time.Duration { return min(gossipMost, time.Duration(members)*gossipShare) }

// gather waits for more news to come. What many wait for is told at once; when one
// member joins after the other, several are told of together, not before a time.
func (m *Mesh) gather(ctx context.Context, until time.Time) error {
	enough := time.NewTimer(time.Until(until))
	defer enough.Stop()
	for waiting := !m.pressing.Load(); waiting; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-enough.C:
			waiting = false
		case <-m.changed:
			waiting = !m.pressing.Load()
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(gossipPause):
	}
	m.pressing.Store(false)
	return nil
}

// urgentLoop tells all connected members at once that somebody is out, whatever
// other exchanges are under way: those may have begun before the news.
func (m *Mesh) urgentLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.urgent:
			m.tell(ctx, m.behind(), 0, m.syncNow)
		}
	}
}

func (m *Mesh) syncNow(ctx context.Context, p peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, syncTime)
	defer cancel()
	_, _, err := m.syncOnce(ctx, p, nil)
	return err
}

// behind is the connected members that are not known to have all that this one has.
func (m *Mesh) behind() []peer.ID {
	m.mu.Lock()
	arrivals := m.roster.Arrivals()
	m.mu.Unlock()
	return m.peers.behind(m.Connected(), arrivals)
}

// tell exchanges with up to n of some connected members, all of them if n is 0.
func (m *Mesh) tell(ctx context.Context, connected []peer.ID, n int, sync func(context.Context, peer.ID) error) {
	rand.Shuffle(len(connected), func(i, j int) { connected[i], connected[j] = connected[j], connected[i] })
	if n > 0 {
		connected = connected[:min(n, len(connected))]
	}
	var g errgroup.Group
	g.SetLimit(gossipAtOnce)
	for _, p := range connected {
		g.Go(func() error {
			if err := sync(ctx, p); err != nil && ctx.Err() == nil {
				m.log.Debug("exchange rosters", "peer", p, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // none of them returns an error
}
