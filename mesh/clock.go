package mesh

import (
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// clockDoubt is how far two clocks are apart when it is said: half of what members
// put up with.
const clockDoubt = member.Skew / 2

// toldTime notes how far this machine's clock is ahead of p's, by what p says that the
// time is, in seconds since 1970; 0 is none.
func (b *peerBook) toldTime(p peer.ID, unix int64) {
	if unix == 0 {
		return
	}
	ahead := time.Since(time.Unix(unix, 0))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p).ahead = &ahead
}

// ClockOffset is how far this machine's clock is ahead of those of the connected
// members that told theirs, in the middle of them, and how many those are. Behind is
// below zero.
func (m *Mesh) ClockOffset() (time.Duration, int) {
	var all []time.Duration
	connected := m.Connected()
	m.peers.mu.Lock()
	for _, p := range connected {
		if c := m.peers.known[p]; c != nil && c.ahead != nil {
			all = append(all, *c.ahead)
		}
	}
	m.peers.mu.Unlock()
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], len(all)
}

// Standing is nil while this node is a member in its own eyes and was not told by
// another one that it is out; else it says why not.
func (m *Mesh) Standing() error {
	if m.outcast.Load() {
		return ErrRemoved
	}
	m.mu.Lock()
	g := m.self.Grant()
	m.mu.Unlock()
	if err := inForce(g, time.Now()); err != nil {
		return fmt.Errorf("this node's credential %w", err)
	}
	if !m.IsMember(m.host.ID()) {
		return ErrRemoved
	}
	return nil
}

// inForce says what time has against a grant.
func inForce(g member.Grant, now time.Time) error {
	from, until := time.Unix(g.Issued, 0), time.Unix(g.Expires, 0)
	at := now.UTC().Format(time.RFC3339)
	switch {
	case now.Before(from.Add(-member.Skew)):
		return fmt.Errorf("%w before %s, and the clock says %s", errNotYet, from.UTC().Format(time.RFC3339), at)
	case !now.Before(until):
		return fmt.Errorf("%w on %s, and the clock says %s", errExpired, until.UTC().Format(time.RFC3339), at)
	}
	return nil
}

// timeless says what time has against the credential that k has shown, nil if that is
// not why it is refused.
func timeless(k member.Key, statements []member.Statement, now time.Time) error {
	for _, s := range statements[:min(len(statements), member.MaxMembers)] {
		if c, err := member.ParseCredential(s.Credential); err == nil && c.Subject() == k {
			return inForce(c.Grant(), now)
		}
	}
	return nil
}

// apart says in words how far two clocks are apart, "" if that is no trouble.
func apart(theirs int64) string {
	ahead := time.Since(time.Unix(theirs, 0)).Round(time.Second)
	switch {
	case theirs == 0 || ahead.Abs() < clockDoubt:
		return ""
	case ahead > 0:
		return fmt.Sprintf("this machine's clock is %v ahead of the member's", ahead)
	}
	return fmt.Sprintf("this machine's clock is %v behind the member's", -ahead)
}
