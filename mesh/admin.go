package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Why a node may not do what it was asked to.
var (
	// ErrNotAdmin: only admins invite and revoke.
	ErrNotAdmin = errors.New("this node is no admin of the mesh")
	// ErrNoSuchMember: the name is of no member, office or invitation.
	ErrNoSuchMember = errors.New("no such member, office or invitation")
	// ErrNotBelow: an admin cannot revoke those that its own right comes from.
	ErrNotBelow = errors.New("this node's own credential comes from that admin")
	// ErrLastAdmin: without this node nobody could invite or revoke.
	ErrLastAdmin = errors.New("this node is the only admin")
	// ErrSelf: a node takes itself out by leaving.
	ErrSelf = errors.New("it is this node; use leave")
	// ErrNamed: an invitation has named the office, and only an admin changes that.
	ErrNamed = errors.New("its office got another name when it was invited")
)

// InviteOptions says whom an invitation is for. The zero value is one member,
// within a day, who names the office.
type InviteOptions struct {
	Role   member.Role
	Office string        // empty: the joining node says
	TTL    time.Duration // 0 is defaultInviteTTL
	Uses   int           // 0 is one
}

const (
	defaultInviteTTL = 24 * time.Hour
	inviteHints      = 8 // members that a token names
)

// admin returns what an admin signs with. The caller holds mu.
func (m *Mesh) admin() (*member.Credential, error) {
	if m.self.Grant().Role != member.Admin || !m.IsMember(m.host.ID()) {
		return nil, ErrNotAdmin
	}
	return m.self, nil
}

// Invite makes a token with which nodes may join until it expires. Whoever has
// the text can join; it gives nothing else away.
func (m *Mesh) Invite(o InviteOptions) (string, error) {
	if o.Role == 0 {
		o.Role = member.Member
	}
	if o.TTL == 0 {
		o.TTL = defaultInviteTTL
	}
	if o.Uses == 0 {
		o.Uses = 1
	}
	if o.Uses < 0 || o.Uses > member.MaxUses || o.TTL < time.Second || o.TTL > member.MaxLifetime {
		return "", fmt.Errorf("invite: %d uses within %v: want 1 to %d within a second to %v",
			o.Uses, o.TTL, member.MaxUses, member.MaxLifetime)
	}
	bearer, seed, err := member.NewBearer()
	if err != nil {
		return "", err
	}
	now := time.Now()
	var inv *member.Credential
	_, err = m.update(func(r *member.Roster) (bool, error) {
		self, err := m.admin()
		if err != nil {
			return false, err
		}
		inv, err = member.Issue(self, m.signer, member.Grant{
			Kind: member.Invite, Subject: bearer.Public, Role: o.Role, Office: o.Office,
			Issued: now.Unix(), Expires: now.Add(o.TTL).Unix(), Uses: uint32(o.Uses),
		})
		if err != nil {
			return false, err
		}
		return r.AddCredential(inv, now)
	})
	if err != nil {
		return "", fmt.Errorf("invite: %w", err)
	}
	t, err := member.NewToken(inv, seed, m.tokenHints())
	if err != nil {
		return "", fmt.Errorf("invite: %w", err)
	}
	return t.String(), nil
}

// tokenHints names this node and other members in touch, any of which enrols.
func (m *Mesh) tokenHints() []member.Hint {
	// Relays serve members only, so their addresses do not help who joins.
	direct := slices.DeleteFunc(m.host.Addrs(), func(a ma.Multiaddr) bool { return hasProtocol(a, ma.P_CIRCUIT) })
	return append([]member.Hint{hintOf(m.signer.Public, direct)}, m.peers.hints(inviteHints-1)...)
}

// Invitations lists the invitations that are remembered, newest first.
func (m *Mesh) Invitations() []member.Invitation { return m.view.Load().Invitations() }

// Withdraw ends an invitation, named by its token or by its ID, which is the
// subject of its credential. Nodes that have joined by it stay.
func (m *Mesh) Withdraw(id string) error {
	k, err := member.ParseKey(id)
	if t, tokenErr := member.ParseToken(id); tokenErr == nil {
		k, err = t.Invitation.Subject(), nil
	}
	if _, ok := m.view.Load().Invitation(k); err != nil || !ok {
		return fmt.Errorf("withdraw %.80q: %w", id, ErrNoSuchMember)
	}
	return m.revoke(k, "withdrawn")
}

// Revoke takes out a member, by peer ID, or all members of an office with the
// invitations for it. They lose their connections at once here and wherever the
// news arrives; it spreads by itself. What a revoked admin has granted up to now (the
// first member.MaxKeep of it) stays. It returns who is out. Where this node is meant
// too, nobody is taken out.
func (m *Mesh) Revoke(peerOrOffice, reason string) ([]peer.ID, error) {
	var out []peer.ID
	var errs []error
	hit := false
	switch {
	case peerOrOffice == m.host.ID().String():
		return nil, fmt.Errorf("revoke %s: %w", peerOrOffice, ErrSelf)
	case peerOrOffice == m.Office() && m.IsMember(m.host.ID()):
		return nil, fmt.Errorf("revoke %.80q: %w; name other nodes of that office by peer ID", peerOrOffice, ErrSelf)
	}
	for _, i := range m.view.Load().Members() {
		if i.Peer.String() != peerOrOffice && i.Office != peerOrOffice {
			continue
		}
		hit = true
		if err := m.revoke(i.Credential.Subject(), reason); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, i.Peer)
	}
	for _, i := range m.view.Load().Invitations() {
		if i.Office == peerOrOffice && !i.Withdrawn && time.Now().Before(i.Expires) {
			hit = true
			errs = append(errs, m.revoke(i.Credential.Subject(), reason))
		}
	}
	if !hit {
		return nil, fmt.Errorf("revoke %.80q: %w", peerOrOffice, ErrNoSuchMember)
	}
	return out, errors.Join(errs...)
}

func (m *Mesh) revoke(target member.Key, reason string) error {
	now := time.Now()
	policy := m.Policy()
	_, err := m.update(func(r *member.Roster) (bool, error) {
		if _, err := m.admin(); err != nil {
			return false, err
		}
		v, err := member.Revoke(m.signer, r.Mesh(), member.Removal{
			Target: target, Reason: reason, Keep: r.KeepOf(target, now),
		}, now)
		if err != nil {
			return false, err
		}
		changed, err := r.AddRevocation(v, now)
		if errors.Is(err, member.ErrUnfounded) {
			err = fmt.Errorf("%w: ask an admin above, or rotate the mesh key without it", ErrNotBelow)
		}
		return changed, err
	})
	if err != nil {
		return fmt.Errorf("revoke %s: %w", target, err)
	}
	m.keepPolicy(policy)
	signal(m.urgent)
	return nil
}

// Rename gives this node's office another name, which the other members hear of. That
// is for the founder of the mesh: others are called as their invitation says, ErrNamed.
func (m *Mesh) Rename(office string) error {
	self, ok := m.view.Load().Member(m.host.ID())
	if !ok || self.Office == office {
		return nil
	}
	m.mu.Lock()
	founder := m.roster.Founder() == m.signer.Public && m.meshKey != nil
	m.mu.Unlock()
	if !founder {
		return fmt.Errorf("call office %s %.80q: %w", self.Office, office, ErrNamed)
	}
	at := time.Now()
	if last := time.Unix(self.Credential.Grant().Issued, 0); !at.After(last.Add(time.Second)) {
		at = last.Add(time.Second) // of two credentials the later one counts, to the second
	}
	self.Office = office
	return m.renewOne(self, at)
}

// Leave takes this node out of its mesh and tells the members in reach; the
// others hear it from them. The node then founds a mesh of its own, and can be
// invited again.
func (m *Mesh) Leave(ctx context.Context) error {
	v := m.view.Load()
	admins := 0
	for _, i := range v.Members() {
		if i.Role == member.Admin && i.Peer != m.host.ID() {
			admins++
		}
	}
	if v.Len() > 1 && admins == 0 {
		return fmt.Errorf("leave: %w: make another one first (invite --role admin)", ErrLastAdmin)
	}
	now := time.Now()
	_, err := m.update(func(r *member.Roster) (bool, error) {
		r2, err := member.Revoke(m.signer, r.Mesh(), member.Removal{Target: m.signer.Public, Reason: "left"}, now)
		if err != nil {
			return false, err
		}
		return r.AddRevocation(r2, now)
	})
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	m.tell(ctx, m.Connected(), 0, m.syncNow)
	p, err := m.found()
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return m.enter(p)
}
