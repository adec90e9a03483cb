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
	gossipPause  = 50 * time.Millisecond // gathers changes that come together
	gossipFanout = 8                     // members told of what another one told
	gossipEvery  = 15 * time.Second      // with one member, whatever happened
	gossipAtOnce = 32                    // exchanges at one time
	syncRounds   = 64                    // exchanges until two rosters agree
)

// syncWith exchanges with p until both have the same, or no exchange brings
// anything new.
func (m *Mesh) syncWith(ctx context.Context, p peer.ID) error {
	done := m.syncs.DoChan(string(p), func() (any, error) {
		ctx, cancel := context.WithTimeout(m.ctx, syncTime)
		defer cancel()
		for range syncRounds {
			again, err := m.syncOnce(ctx, p)
			if err != nil || !again {
				return nil, err
			}
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

// syncOnce makes one exchange; again says that there was more than fits in one.
func (m *Mesh) syncOnce(ctx context.Context, p peer.ID) (again bool, err error) {
	s, err := m.members.NewStream(network.WithNoDial(ctx, "sync on an open connection"), p, protocolRoot+syncID)
	if err != nil {
		return false, fmt.Errorf("sync: %w", err)
	}
	w, err := newWire(ctx, s, syncTime)
	if err != nil {
		return false, err
	}
	defer func() { w.close(err) }()
	m.mu.Lock()
	sum := m.roster.Sum()
	m.mu.Unlock()
	if err := w.send(syncOpen{sum, m.peers.news(), m.holds.count(), time.Now().Unix()}); err != nil {
		return false, err
	}
	var have syncHave
	if err := w.receive(maxSyncHave, &have); err != nil {
		return false, err
	}
	m.peers.hear(have.Hints[:min(len(have.Hints), heardHints)])
	m.peers.toldZips(p, have.Zips)
	m.peers.toldTime(p, have.Time)
	if have.Same {
		return false, nil
	}
	give, more := m.compare(have.IDs)
	if err := w.send(give); err != nil {
		return false, err
	}
	var given syncGive
	if err := w.receive(maxSyncGive, &given); err != nil {
		return false, err
	}
	m.accept(p, given.Statements)
	return more || len(given.Want) > 0, nil
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
		m.log.Debug("sync", "peer", p, "err", err)
	}
}

func (m *Mesh) answerSync(w *wire, p peer.ID) error {
	var open syncOpen
	if err := w.receive(maxSyncHave, &open); err != nil {
		return err
	}
	m.peers.hear(open.Hints[:min(len(open.Hints), heardHints)])
	m.peers.toldZips(p, open.Zips)
	m.peers.toldTime(p, open.Time)
	m.mu.Lock()
	have := syncHave{Same: m.roster.Sum() == open.Sum, Zips: m.holds.count(), Time: time.Now().Unix()}
	if !have.Same {
		have.IDs = m.roster.IDs()
	}
	m.mu.Unlock()
	have.Hints = m.peers.news()
	if err := w.send(have); err != nil || have.Same {
		return err
	}
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
	return w.send(reply)
}

// compare says what to give to one who has theirs, and what to want of it.
func (m *Mesh) compare(theirs []member.ID) (syncGive, bool) {
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
	return give, more
}

// within cuts statements off at a number of bytes.
func within(all []member.Statement, limit int) (fit []member.Statement, more bool) {
	size := 0
	for i, s := range all {
		if size += len(s.Credential) + len(s.Revocation) + len(s.Policy) + 16; size > limit && i > 0 || i >= maxGiven {
			return all[:i], true
		}
	}
	return all, false
}

// gossipLoop tells others when the roster has changed, and one of them from time
// to time.
func (m *Mesh) gossipLoop(ctx context.Context) error {
	for {
		pause := gossipEvery/2 + rand.N(gossipEvery)
		fanout := 1
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			if m.holds.news() {
				fanout = gossipFanout
			}
		case <-m.changed:
			fanout = gossipFanout
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(gossipPause):
			}
		}
		m.tell(ctx, fanout, m.syncWith)
	}
}

// urgentLoop tells all connected members at once that somebody is out, whatever
// other exchanges are under way: those may have begun before the news.
func (m *Mesh) urgentLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.urgent:
			m.tell(ctx, 0, m.syncNow)
		}
	}
}

func (m *Mesh) syncNow(ctx context.Context, p peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, syncTime)
	defer cancel()
	_, err := m.syncOnce(ctx, p)
	return err
}

// tell exchanges with up to n connected members, all of them if n is 0.
func (m *Mesh) tell(ctx context.Context, n int, sync func(context.Context, peer.ID) error) {
	connected := m.Connected()
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
