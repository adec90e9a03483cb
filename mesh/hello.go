package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// greet makes this node known to a member that it has dialled, and exchanges
// rosters.
func (m *Mesh) greet(ctx context.Context, p peer.ID) {
	err := m.introduce(ctx, p)
	if err == nil {
		err = m.syncWith(ctx, p)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	m.log.Debug("greet a member", "peer", p, "err", err)
	if errors.Is(err, ErrRemoved) && m.outcast.CompareAndSwap(false, true) {
		m.log.Error("this node was revoked from its mesh: to come back, it needs a new identity and a token", "by", p)
	}
	if errors.Is(err, ErrRemoved) || errors.Is(err, ErrRefused) {
		m.peers.shun(p, refusedPause)
		if err := m.host.Network().ClosePeer(p); err != nil {
			m.log.Debug("close connections", "peer", p, "err", err)
		}
	}
}

// refusedPause is until a member that refused this node is tried again.
const refusedPause = 30 * time.Second

// introduce makes sure that p knows this node. It is quick once p does.
func (m *Mesh) introduce(ctx context.Context, p peer.ID) error {
	if _, ok := m.greeted.Load(p); ok {
		return nil
	}
	session := m.session.Load()
	done := m.hellos.DoChan(session.prefix+string(p), func() (any, error) {
		ctx, cancel := context.WithTimeout(m.ctx, helloTime)
		defer cancel()
		return nil, m.hello(ctx, session, p)
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Mesh) hello(ctx context.Context, session *session, p peer.ID) (err error) {
	if !m.IsMember(p) && !m.peers.static[p] {
		return errStranger // it would learn who this node is
	}
	ctx = network.WithNoDial(ctx, "hello on an open connection")
	s, err := m.host.NewStream(ctx, p, session.protocol(helloID))
	if err != nil {
		m.offerMoves(ctx, p)
		return fmt.Errorf("hello to %s: %w", p, err)
	}
	w, err := newWire(ctx, s, helloTime)
	if err != nil {
		return err
	}
	defer func() { w.close(err) }()
	if err := w.send(helloOpen{m.introduction()}); err != nil {
		return err
	}
	var reply helloReply
	if err := w.receive(maxReply, &reply); err != nil {
		return err
	}
	if reply.Status == statusMoved {
		return errors.Join(ErrMoved, m.heardMove(p, reply.Rotation))
	}
	if err := reply.Status.err(); err != nil {
		if clocks := apart(reply.Time); clocks != "" {
			m.log.Warn("a member does not take this node's credential: "+clocks+"; set the clock, and keep it set (NTP)", "peer", p)
		}
		return fmt.Errorf("hello to %s: %w", p, err)
	}
	m.outcast.Store(false)
	m.accept(p, reply.Statements)
	m.introduced(p)
	return nil
}

// introduced notes that p knows this node, and this node p.
func (m *Mesh) introduced(p peer.ID) {
	m.greeted.Store(p, struct{}{})
	for _, c := range m.host.Network().ConnsToPeer(p) {
		m.gate.forget(c)
		m.peers.connected(c)
	}
	m.peers.told(p)
	m.session.Load().route(p)
}

// accept adds what a member or an aspirant said; what does not hold is dropped. It
// reports whether there was anything new.
func (m *Mesh) accept(p peer.ID, statements []member.Statement) bool {
	if len(statements) == 0 {
		return false
	}
	changed, err := m.change(func(r *member.Roster) (bool, error) { return r.Merge(statements, time.Now()) }, false)
	if changed {
		signal(m.changed)
	}
	if err != nil {
		m.log.Debug("statements not taken", "from", p, "err", err)
	}
	return changed
}

// introduction is this node's credential and those that it rests on.
func (m *Mesh) introduction() []member.Statement {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roster.Bundle(m.self, maxHello/2)
}

// serveHello answers a peer that says who it is.
func (m *Mesh) serveHello(s network.Stream) {
	serve(m, s, m.session.Load().hellos, "hello", m.answerHello)
}

// serve answers one stream of a protocol that strangers may use, if there is a
// slot free. answer returns why it refused the peer, and why it failed.
func serve(m *Mesh, s network.Stream, slots *semaphore.Weighted, what string,
	answer func(*wire, peer.ID) (refusal, err error)) {
	if !slots.TryAcquire(1) {
		s.Reset()
		return
	}
	defer slots.Release(1)
	w, err := newWire(m.ctx, s, helloTime)
	if err != nil {
		return
	}
	p := s.Conn().RemotePeer()
	refusal, err := answer(w, p)
	w.close(err)
	if err = errors.Join(refusal, err); err != nil {
		m.log.Info(what+" refused", "peer", p, "addr", s.Conn().RemoteMultiaddr(), "err", err)
	}
}

func (m *Mesh) answerHello(w *wire, p peer.ID) (refusal, err error) {
	var open helloOpen
	if err := w.receive(maxHello, &open); err != nil {
		return nil, err
	}
	if err := m.admit(p, open.Statements); err != nil {
		return err, w.send(helloReply{Status: statusOf(err), Time: time.Now().Unix()}) // and no more
	}
	if err := w.send(helloReply{Status: statusOK, Statements: m.introduction()}); err != nil {
		return nil, err
	}
	m.introduced(p)
	return nil, nil
}

// admit checks the statements of a peer: after it, p is a member, or err says
// why not. Statements about others than those that p rests on are not taken
// from a stranger.
func (m *Mesh) admit(p peer.ID, statements []member.Statement) error {
	k, err := member.KeyOf(p)
	if err != nil {
		return err
	}
	if m.isRemoved(p) {
		return fmt.Errorf("hello of %s: %w", p, ErrRemoved)
	}
	if m.IsMember(p) {
		return nil
	}
	now := time.Now()
	// Who says hello says it to everybody, so it is not passed on at once.
	_, err = m.change(func(r *member.Roster) (bool, error) { return r.Vouched(k, statements, now) }, false)
	if m.IsMember(p) {
		return nil
	}
	if old := timeless(k, statements, now); old != nil {
		err = old
	}
	if err == nil {
		err = errTakenAway
	}
	return fmt.Errorf("hello of %s: %w: its credential %w", p, ErrRefused, err)
}

// What is wrong with a credential, after the word.
var (
	errTakenAway = errors.New("is not in force here: it, or one that it rests on, was taken away")
	errNotYet    = errors.New("is not in force")
	errExpired   = errors.New("has expired")
)
