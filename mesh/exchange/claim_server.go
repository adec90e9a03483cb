package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// Times of claims. A claim passes on when its fetcher, and moves to the next
// home peer when its home peer, was silent for leaseTimeout.
const (
	heartbeat    = 500 * time.Millisecond
	leaseTimeout = 2 * time.Second
	maxWaiting   = 30 * time.Minute // a waiter that says nothing at all for so long is given up
)

// claimKey is the key under which a desk keeps claims to a file. It cannot be
// that of another answer, see checkKey.
func claimKey(n verify.Name) string { return "release " + n.String() }

// checkKey reports whether a key may be claimed or asked for.
func checkKey(key string) error {
	switch {
	case key == "" || len(key) > maxKey:
		return fmt.Errorf("key of %d bytes: want 1 to %d", len(key), maxKey)
	case strings.HasPrefix(key, "release "):
		return fmt.Errorf("key %.100q: this prefix is for files of releases", key)
	}
	return nil
}

// keyHome is the text that decides which peers are at home for a key: what stands
// before the first space, so that several answers about one module share a home.
func keyHome(key string) string {
	home, _, _ := strings.Cut(key, " ")
	return home
}

// claimed is a claimRequest, checked.
type claimed struct {
	name     verify.Name // of a file, or zero
	key      string      // of the desk
	home     string
	maxAge   time.Duration
	fetching bool
	tried    []peer.ID // holders that the claimant could not get it from
}

func (r *claimRequest) check() (c claimed, err error) {
	c.fetching, c.tried = r.Fetching, peersOf(r.Tried)
	c.maxAge = time.Duration(min(r.MaxAge, 1<<32)) * time.Second
	if r.Name == nil {
		c.key, c.home = r.Key, keyHome(r.Key)
		return c, checkKey(r.Key)
	}
	if c.name, err = r.Name.name(); err != nil {
		return c, err
	}
	c.key, c.home = claimKey(c.name), homeKey(c.name)
	return c, nil
}

// request is what check made c of, but for whom the claimant tried.
func (c *claimed) request() *claimRequest {
	req := &claimRequest{MaxAge: uint64(c.maxAge / time.Second), Tried: rawPeers(c.tried)}
	if c.name == (verify.Name{}) {
		req.Key = c.key
	} else {
		w := toWire(c.name)
		req.Name = &w
	}
	return req
}

// known answers a claim from what this node has, without a claim.
func (x *Exchange) known(c claimed) (claimReply, bool) {
	if c.name == (verify.Name{}) {
		value, at, err := x.cfg.Backend.Answer(c.key)
		if err != nil || time.Since(at) > c.maxAge || len(value) > maxAnswer {
			return claimReply{}, false
		}
		return claimReply{State: claimAnswer, Value: value, At: at.Unix()}, true
	}
	s, err := x.cfg.Backend.Record(c.name)
	if err != nil {
		return claimReply{}, false
	}
	var holders []peer.ID
	if c.name.Kind == verify.Zip {
		holders = x.liveHolders(s.Record.Digest)
		if x.holds(s.Record.Digest) {
			holders = append([]peer.ID{x.self}, holders...)
		}
	}
	reply := claimReply{State: claimHolders, Envelope: s.Envelope, Holders: rawPeers(holders)}
	return reply, c.willDo(reply)
}

// willDo reports whether a result that is there already is of use: an answer
// that is young enough, or a zip with a holder that was not tried in vain.
func (c *claimed) willDo(r claimReply) bool {
	switch {
	case r.State == claimAnswer:
		return time.Since(timeOf(r.At)) <= c.maxAge
	case r.State == claimHolders && c.name.Kind == verify.Zip:
		return len(except(peersOf(r.Holders), c.tried)) > 0
	}
	return true
}

// liveHolders returns the known holders that are members and not known to be
// out of reach.
func (x *Exchange) liveHolders(root verify.Digest) []peer.ID {
	var live []peer.ID
	for _, p := range x.holders.of(root) {
		if p != x.self && x.cfg.Members.IsMember(p) && x.health.usable(p) {
			live = append(live, p)
		}
	}
	return live
}

// nearer returns the connected member that a claim should go to instead of this
// node: the asker did not know it, or took it for dead. What this node knows or
// has under way, it says itself.
func (x *Exchange) nearer(from peer.ID, c claimed, unreached []peer.ID) (peer.ID, bool) {
	if _, ok := x.known(c); ok || c.fetching || x.desk.fetcher(c.key) != "" {
		return "", false
	}
	_, connected := x.candidates()
	around := slices.DeleteFunc(x.sharing(connected, c.path()), func(p peer.ID) bool { return p == from || slices.Contains(unreached, p) })
	p := newRing(append(around, x.self)).nearest(c.home, 1)[0]
	return p, p != x.self
}

// enter opens a claim at this node's desk.
func (x *Exchange) enter(from peer.ID, c claimed) (*claimant, claimReply) {
	if r, ok := x.known(c); ok && !c.fetching {
		return nil, r
	}
	who := newClaimant(from, c.key)
	first := x.desk.claim(who, c.fetching, c.willDo)
	if first.State != claimFetch && first.State != claimWait {
		return nil, first
	}
	return who, first
}

// answerClaim is the home peer's side of ClaimID: one goroutine reads reports,
// this one waits for what comes first.
func (x *Exchange) answerClaim(ctx context.Context, from peer.ID, l *link) error {
	var req claimRequest
	if err := l.recv(&req, maxRequest); err != nil {
		return err
	}
	x.joinTrace(ctx, from, l, req.Trace)
	c, err := req.check()
	if err != nil {
		return err
	}
	if !x.shares(from, c.path()) {
		return l.send(&claimReply{State: claimDeclined}, maxClaim)
	}
	if req.Probe {
		reply := x.answerProbe(c)
		return l.send(&reply, maxClaim)
	}
	if p, ok := x.nearer(from, c, peersOf(req.Unreached)); ok {
		return l.send(&claimReply{State: claimNearer, Holders: rawPeers([]peer.ID{p})}, maxClaim)
	}
	who, first := x.enter(from, c)
	if who == nil {
		return l.send(&first, maxClaim)
	}
	defer x.desk.leave(who)
	s := &claimSession{x: x, l: l, c: c, who: who, state: first.State}
	if err := s.say(first); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	reports := make(chan *claimReport)
	l.idle = maxWaiting // a waiter says nothing; a fetcher's silence is timed by the session
	if !x.start(func() { cancel(readReports(ctx, l, reports)) }) {
		return ErrClosed
	}
	return s.run(ctx, reports)
}

// readReports sends what the other side says to reports.
func readReports(ctx context.Context, l *link, reports chan<- *claimReport) error {
	for {
		m := new(claimReport)
		if err := l.recv(m, maxClaim); err != nil {
			return err
		}
		select {
		case reports <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// claimSession is one stream of a claimant at its home peer.
type claimSession struct {
	x     *Exchange
	l     *link
	c     claimed
	who   *claimant
	state claimState // claimWait, or claimFetch from when it was told to on
	heard time.Time  // last sign of life of a fetcher
	count uint64     // its counter of progress
	watch watch
}

// watch sees whether a counter of progress stands still.
type watch struct {
	count uint64
	moved time.Time
}

// stalled reports, once, that the counter did not move for as long as limit.
func (w *watch) stalled(count uint64, now time.Time, limit time.Duration) bool {
	if count != w.count {
		w.count, w.moved = count, now
	}
	if now.Sub(w.moved) <= limit {
		return false
	}
	w.moved = now
	return true
}

func (s *claimSession) say(r claimReply) error {
	if r.State == claimFetch {
		s.state, s.heard, s.watch.moved = claimFetch, time.Now(), time.Now()
	}
	if err := s.l.send(&r, maxClaim); err != nil {
		return err
	}
	return s.l.flush()
}

func (s *claimSession) run(ctx context.Context, reports <-chan *claimReport) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case r := <-s.who.told:
			if err := s.say(r); err != nil || r.State != claimFetch {
				return err
			}
		case m := <-reports:
			if end, err := s.take(ctx, m); end || err != nil {
				return err
			}
		case <-beat.C:
			if err := s.check(time.Now()); err != nil {
				return err
			}
			// Also a fetcher wants to know that its home peer lives.
			if err := s.say(s.x.wait(s.c)); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// check sees to a fetcher that is silent, whose stream ends, and to one that
// lives but makes no progress: the next in line fetches too, and whoever is done
// first is heard.
func (s *claimSession) check(now time.Time) error {
	if s.state != claimFetch {
		return nil
	}
	if silent := now.Sub(s.heard); silent > leaseTimeout {
		s.x.health.failed(s.who.peer)
		return fmt.Errorf("fetcher of %s was silent for %v", s.c.key, silent.Round(time.Millisecond))
	}
	if s.watch.stalled(s.count, now, s.x.cfg.Stall) {
		s.x.log.Warn("a fetcher makes no progress; the next in line fetches too", "peer", s.who.peer, "key", s.c.key)
		s.x.desk.replace(s.who)
	}
	return nil
}

// take handles a report; end says that the claim is over.
func (s *claimSession) take(ctx context.Context, m *claimReport) (end bool, err error) {
	s.heard = time.Now()
	if m.State == claimAlive {
		s.count = m.Progress
		return false, nil
	}
	if s.state != claimFetch {
		return false, fmt.Errorf("report on %s by one who was not told to fetch", s.c.key)
	}
	result, err := s.x.settle(ctx, s.who.peer, s.c, m)
	if err != nil {
		return false, err
	}
	s.x.desk.report(s.who, result)
	return true, s.say(claimReply{State: claimEnded})
}

// settle turns a fetcher's report into what the waiters are told. A record or an
// answer goes through the backend's door first; what does not pass is the
// fetcher's failure, unless it is only that nothing of the module is wanted here.
func (x *Exchange) settle(ctx context.Context, from peer.ID, c claimed, m *claimReport) (claimReply, error) {
	text := m.Text[:min(len(m.Text), maxText)]
	switch m.State {
	case claimRefused:
		if m.Code < 400 || m.Code > 499 {
			return claimReply{}, fmt.Errorf("refusal with code %d: want 400 to 499", m.Code)
		}
		return claimReply{State: claimRefused, Code: m.Code, Text: text}, nil
	case claimFailed:
		return claimReply{State: claimFailed, Text: text}, nil
	case claimAnswer:
		return x.settleAnswer(ctx, from, c, m)
	case claimHolders:
		return x.settleRecord(ctx, from, c, m)
	}
	return claimReply{}, fmt.Errorf("report with state %d", m.State)
}

func (x *Exchange) settleAnswer(ctx context.Context, from peer.ID, c claimed, m *claimReport) (claimReply, error) {
	if c.name != (verify.Name{}) || len(m.Value) > maxAnswer {
		return claimReply{}, fmt.Errorf("answer of %d bytes for %s", len(m.Value), c.key)
	}
	at := madeAt(m.At)
	if from != x.self {
		if err := x.cfg.Backend.KeepAnswer(ctx, from, c.key, m.Value, at); err != nil {
			x.log.Info("answer from a peer not kept", "peer", from, "key", c.key, "err", err)
		}
	}
	return claimReply{State: claimAnswer, Value: m.Value, At: at.Unix()}, nil
}

func (x *Exchange) settleRecord(ctx context.Context, from peer.ID, c claimed, m *claimReport) (claimReply, error) {
	have, unknown := x.cfg.Backend.Record(c.name)
	s := have
	if unknown != nil || !bytes.Equal(have.Envelope, m.Envelope) { // what this node fetched itself was checked before
		var err error
		s, err = verify.OpenSigned(m.Envelope)
		if err == nil && s.Record.Name != c.name {
			err = fmt.Errorf("record of %v for a claim to %v: %w", s.Record.Name, c.name, verify.ErrRecord)
		}
		if err != nil {
			x.liar(from, err)
			return claimReply{}, err
		}
	}
	if unknown != nil || have.Record.Digest != s.Record.Digest {
		if err := x.cfg.Backend.Accept(ctx, from, s); err != nil && !errors.Is(err, ErrUnwanted) {
			var conflict *store.ConflictError
			if errors.As(err, &conflict) {
				return claimReply{State: claimHolders, Envelope: conflict.Have.Envelope,
					Holders: rawPeers(x.liveHolders(conflict.Have.Record.Digest))}, nil
			}
			return claimReply{}, fmt.Errorf("record of %v from %v refused: %w", c.name, from, err)
		}
	}
	reply := claimReply{State: claimHolders, Envelope: s.Envelope}
	if c.name.Kind == verify.Zip {
		if from != x.self {
			x.holders.add(s.Record.Digest, from)
		}
		reply.Holders = rawPeers(union([]peer.ID{from}, x.liveHolders(s.Record.Digest)))
	}
	return reply, nil
}
