package mesh

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh/member"
)

const (
	tickEvery  = time.Second
	renewEvery = 3 * time.Second
)

// tickLoop does what time brings: credentials expire and are renewed, round
// trips are measured, addresses are kept.
func (m *Mesh) tickLoop(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	var renewed, pinged, saved time.Time
	standing := true
	overused := map[member.Key]int{}
	for {
		now := time.Now()
		m.expire(now)
		m.greetAll()
		if now.Sub(renewed) >= renewEvery {
			renewed = now
			m.warnOverused(overused)
			m.renew(now)
			m.countZips(ctx)
			m.routeAll()
			if err := m.keepRoster(); err != nil {
				m.log.Warn("keep what other members told", "err", err)
			}
			standing = m.warnStanding(standing)
		}
		if now.Sub(pinged) >= pingEvery {
			pinged = now
			m.pingSome(ctx)
		}
		if now.Sub(saved) >= savePeers {
			saved = now
			if err := m.peers.save(); err != nil {
				m.log.Warn("keep addresses of members", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// expire takes out those whose time is over, and in again when it is not after all: the
// clock has been set back since.
func (m *Mesh) expire(now time.Time) {
	v := m.view.Load()
	if !now.Before(v.At) && (v.Until.IsZero() || now.Before(v.Until)) {
		return
	}
	m.mu.Lock()
	gone := m.evaluate(now)
	m.mu.Unlock()
	m.dismiss(gone)
}

// pingSome measures the round trips to a few members, those whose was measured the
// longest time ago: to ask everybody, all members would take more the more they are.
func (m *Mesh) pingSome(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(gossipAtOnce)
	for _, p := range m.peers.unmeasured(m.Connected(), pingsAtOnce) {
		g.Go(func() error {
			if _, err := m.Ping(ctx, p); err != nil && ctx.Err() == nil {
				m.log.Debug("ping", "peer", p, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // none of them returns an error
}

// unmeasured picks the members whose round trip was measured the longest time ago,
// or never.
func (b *peerBook) unmeasured(peers []peer.ID, most int) []peer.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.SortFunc(peers, func(p, q peer.ID) int { return b.of(p).measured.Compare(b.of(q).measured) })
	peers = peers[:min(len(peers), most)]
	for _, p := range peers {
		b.of(p).measured = time.Now()
	}
	return peers
}

// renew, on an admin, gives connected members a fresh credential in the last
// third of theirs, and one that needs no witness to those who came by
// invitation. The members take it from the roster; nothing is interrupted.
func (m *Mesh) renew(now time.Time) {
	v := m.view.Load()
	self, ok := v.Member(m.host.ID())
	if !ok || self.Role != member.Admin {
		return
	}
	for _, i := range v.Members() {
		_, _, witnessed := i.Credential.WitnessedBy()
		old := i.Expires.Sub(now) < time.Duration(i.Credential.Grant().Expires-i.Credential.Grant().Issued)*time.Second/3
		if !old && !witnessed || i.Peer != self.Peer && m.host.Network().Connectedness(i.Peer) != 1 {
			continue
		}
		if err := m.renewOne(i, now); err != nil {
			m.log.Debug("renew a credential", "peer", i.Peer, "err", err)
		}
	}
}

// renewOne signs with the mesh key for the founder, who else has no issuer, and
// as an admin for all others but itself.
func (m *Mesh) renewOne(i member.Info, now time.Time) error {
	_, err := m.update(func(r *member.Roster) (bool, error) {
		g := m.grantNode(i.Credential.Subject(), i.Role, i.Office, now)
		var c *member.Credential
		var err error
		switch {
		case i.Credential.Subject() == r.Founder() && m.meshKey != nil:
			var mesh member.Signer
			if mesh, err = member.NewSigner(m.meshKey); err == nil {
				c, err = member.Found(mesh, g)
			}
		case i.Peer == m.host.ID():
			return false, nil // another admin's task
		default:
			c, err = member.Issue(m.self, m.signer, g)
		}
		if err != nil {
			return false, err
		}
		return r.AddCredential(c, now)
	})
	return err
}

// greetAll greets connected members that do not know this node yet: those that
// were connected when it joined or when the mesh key was rotated, and those that
// were greeted in vain.
func (m *Mesh) greetAll() {
	for _, p := range m.Connected() {
		if _, ok := m.greeted.Load(p); !ok {
			m.spawn(func(ctx context.Context) { m.greet(ctx, p) })
		}
	}
}

// warnOverused says once when an invitation has admitted more nodes than it was
// for. told has how many were told of.
func (m *Mesh) warnOverused(told map[member.Key]int) {
	for _, i := range m.Invitations() {
		k := i.Credential.Subject()
		if n := len(i.Admitted); i.Overused() && told[k] != n {
			told[k] = n
			m.log.Warn("a token was used more often than it was made for: see who joined by it, and revoke who does not belong",
				"invitation", k, "uses", i.Uses, "joined", i.Admitted)
		}
	}
}

// warnStanding says once when this node is no member any more in its own eyes, and
// returns whether it is.
func (m *Mesh) warnStanding(before bool) bool {
	err := m.Standing()
	if err != nil && before && !errors.Is(err, ErrRemoved) { // that was said when it was heard
		m.log.Error("this node is out of its mesh: set the clock if it is wrong, else join again with a new token", "err", err)
	}
	return err == nil
}
