package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Why a node does not join.
var (
	// ErrNotReachable: none of the members that the token names answers.
	ErrNotReachable = errors.New("no member of the mesh is in reach")
	// ErrInMesh: the node is in a mesh with others, and must leave it first.
	ErrInMesh = errors.New("this node is already in a mesh with others")
)

// joinTime bounds one attempt with one member.
const joinTime = 15 * time.Second

// Join moves the node into the mesh that the token is for, through any member
// that it reaches. It returns when the node is a member; joining the mesh that
// it is in already is no error. The errors are those of the token
// (member.ErrToken...), ErrNotReachable, ErrInMesh, ErrRemoved and ErrRefused.
func (m *Mesh) Join(ctx context.Context, text string) error {
	t, err := member.ParseToken(text)
	if err != nil {
		return err
	}
	// A node whose credential has run out, or that was revoked, is free to go.
	if s := m.session.Load(); s.key == t.Invitation.Mesh() && !m.Removed() {
		return nil
	}
	if m.view.Load().Len() > 1 && !m.Removed() {
		return fmt.Errorf("join %s: %w: leave %s first", t.Invitation.Mesh(), ErrInMesh, m.MeshID())
	}
	if now := time.Now(); now.After(t.Expires().Add(member.Skew)) {
		return fmt.Errorf("%w: on %s; it is %s on this machine",
			member.ErrTokenExpired, t.Expires().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	p, via, err := m.joinAny(ctx, t)
	if err != nil {
		return err
	}
	if err := m.save(p); err != nil {
		return err
	}
	if err := m.enter(p); err != nil {
		return err
	}
	m.outcast.Store(false)
	// The first exchange of rosters tells of everybody else.
	m.greet(ctx, via)
	return nil
}

// joinAny tries the members that a token names, until one lets the node in or
// says what makes the others pointless.
func (m *Mesh) joinAny(ctx context.Context, t *member.Token) (*place, peer.ID, error) {
	var tried []error
	for i, h := range slices.Concat(t.Hints, t.Hints) { // twice: the first time may be a bad moment
		if i == len(t.Hints) {
			tried = nil
		}
		ai := addrInfo(h)
		p, err := m.joinThrough(ctx, t, ai)
		if err == nil {
			return p, ai.ID, nil
		}
		if isFinal(err) {
			return nil, "", err
		}
		tried = append(tried, err)
		if ctx.Err() != nil {
			break
		}
	}
	if !m.cfg.NoLAN && ctx.Err() == nil {
		p, via, err := m.joinLAN(ctx, t)
		if err == nil || isFinal(err) {
			return p, via, err
		}
		tried = append(tried, err)
	}
	return nil, "", fmt.Errorf("%w: %w", ErrNotReachable, joinErrors(tried))
}

// isFinal reports whether a refusal holds for every member.
func isFinal(err error) bool {
	return errors.Is(err, member.ErrTokenExpired) || errors.Is(err, member.ErrTokenUsed) ||
		errors.Is(err, member.ErrTokenRevoked) || errors.Is(err, ErrRemoved)
}

// joinErrors is errors.Join on one line.
func joinErrors(errs []error) error {
	var texts []string
	for _, err := range errs {
		texts = append(texts, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return &lineError{strings.Join(texts, "; "), errs}
}

type lineError struct {
	text string
	errs []error
}

func (e *lineError) Error() string   { return e.text }
func (e *lineError) Unwrap() []error { return e.errs }

func addrInfo(h member.Hint) peer.AddrInfo {
	ai := peer.AddrInfo{ID: h.Peer.Peer()}
	for _, raw := range h.Addrs[:min(len(h.Addrs), maxHintAddrs)] {
		if a, err := ma.NewMultiaddrBytes(raw); err == nil && len(raw) <= maxHintAddr {
			ai.Addrs = append(ai.Addrs, a)
		}
	}
	return ai
}

// where says for people who was asked, and at which addresses.
func where(ai peer.AddrInfo) string {
	var at []string
	for _, a := range ai.Addrs {
		at = append(at, a.String())
	}
	return fmt.Sprintf("%s (%s)", ai.ID, strings.Join(at, ", "))
}

func (m *Mesh) joinThrough(ctx context.Context, t *member.Token, ai peer.AddrInfo) (_ *place, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	defer m.gate.allowDial(ai.ID)()
	id := (&session{prefix: meshPrefix(t.Invitation.Mesh())}).protocol(joinID)
	clearBackoff(m.host, ai.ID)
	if err := m.host.Connect(ctx, ai); err != nil {
		return nil, fmt.Errorf("dial %s: %w", where(ai), err)
	}
	defer m.gate.allowProtocol(id)()
	s, err := m.host.NewStream(ctx, ai.ID, id)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", where(ai), err)
	}
	w, err := newWire(ctx, s, joinTime)
	if err != nil {
		return nil, err
	}
	defer func() { w.close(err) }()
	welcome, err := m.askToJoin(w, t)
	if err != nil {
		return nil, fmt.Errorf("join through %s: %w", where(ai), err)
	}
	m.host.Peerstore().AddAddrs(ai.ID, ai.Addrs, peerstore.RecentlyConnectedAddrTTL)
	return m.placeOf(t, welcome)
}

// askToJoin shows the invitation, then signs a grant for this node at the time
// that the member says, with the bearer key that no other node gets to see.
func (m *Mesh) askToJoin(w *wire, t *member.Token) (*joinWelcome, error) {
	if err := w.send(joinOpen{t.Invitation.Links(), m.cfg.Office}); err != nil {
		return nil, err
	}
	var offer joinOffer
	if err := w.receive(maxWelcome, &offer); err != nil {
		return nil, err
	}
	if err := offer.Status.err(); err != nil {
		return nil, err
	}
	inv := t.Invitation.Grant()
	g := member.Grant{
		Kind: member.Node, Subject: m.signer.Public, Role: inv.Role, Office: officeFor(inv, m.cfg.Office),
		Issued: offer.Time, Expires: offer.Expires,
	}
	link, err := member.SignJoin(t.Bearer, t.Invitation.Mesh(), g)
	if err != nil {
		return nil, err
	}
	if err := w.send(joinProof{link}); err != nil {
		return nil, err
	}
	var welcome joinWelcome
	if err := w.receive(maxWelcome, &welcome); err != nil {
		return nil, err
	}
	return &welcome, welcome.Status.err()
}

func officeFor(inv member.Grant, own string) string {
	if inv.Office != "" {
		return inv.Office
	}
	return own
}

// placeOf checks what the member sent: it must make this node a member of the
// token's mesh, under its founder.
func (m *Mesh) placeOf(t *member.Token, w *joinWelcome) (*place, error) {
	r := member.NewRoster(t.Invitation.Mesh(), t.Invitation.Founder())
	if _, err := r.Vouched(m.signer.Public, w.Statements, time.Now()); err != nil {
		return nil, fmt.Errorf("%w: the credential that it gave does not hold: %w", ErrRefused, err)
	}
	i, ok := r.Evaluate(time.Now()).Member(m.signer.Public.Peer())
	if !ok {
		return nil, fmt.Errorf("%w: the credential that it gave is not in force; compare the clocks", ErrRefused)
	}
	return &place{self: i.Credential, roster: r}, nil
}

// serveJoin lets in who holds a token.
func (m *Mesh) serveJoin(s network.Stream) {
	serve(m, s, m.session.Load().joins, "join", m.answerJoin)
}

func (m *Mesh) answerJoin(w *wire, p peer.ID) (refusal, err error) {
	var open joinOpen
	if err := w.receive(maxHello, &open); err != nil {
		return nil, err
	}
	inv, err := member.ParseInvitation(m.session.Load().key, open.Links)
	if err == nil {
		err = m.checkInvitation(inv, p, time.Now())
	}
	if err != nil {
		return err, w.send(joinOffer{Status: statusOf(err)})
	}
	now := time.Now()
	offer := joinOffer{Time: max(now.Unix(), m.leftAt(p)+1), Expires: now.Add(m.cfg.CredentialTTL).Unix()}
	if err := w.send(offer); err != nil {
		return nil, err
	}
	var proof joinProof
	if err := w.receive(maxHello, &proof); err != nil {
		return nil, err
	}
	c, err := m.enrol(inv, proof.Link, p, offer)
	if err != nil {
		return err, w.send(joinWelcome{Status: statusOf(err)})
	}
	m.log.Info("enrolled a node", "peer", p, "office", c.Grant().Office, "role", c.Grant().Role)
	m.mu.Lock()
	bundle := m.roster.Bundle(c, maxWelcome/2)
	m.mu.Unlock()
	if err := w.send(joinWelcome{Statements: bundle}); err != nil {
		return nil, err
	}
	for _, conn := range m.host.Network().ConnsToPeer(p) {
		m.gate.forget(conn)
	}
	return nil, nil
}

// leftAt is when a node left, 0 if it did not. Only what is granted later counts,
// and clocks may differ a little.
func (m *Mesh) leftAt(p peer.ID) int64 {
	k, err := member.KeyOf(p)
	if err != nil {
		return 0
	}
	r := m.view.Load().Removed(k)
	if r == nil || time.Until(time.Unix(r.At, 0)) > member.Skew/2 {
		return 0
	}
	return r.At
}

// checkInvitation says whether an invitation admits p at now.
func (m *Mesh) checkInvitation(inv *member.Credential, p peer.ID, now time.Time) error {
	if m.isRemoved(p) {
		return ErrRemoved
	}
	if now.Unix() >= inv.Grant().Expires {
		return member.ErrTokenExpired
	}
	// Its place in the roster is where uses are counted and withdrawals apply.
	if _, err := m.update(func(r *member.Roster) (bool, error) { return r.AddCredential(inv, now) }); err != nil {
		return fmt.Errorf("invitation by %s: %w", inv.Peer(), err)
	}
	known, ok := m.view.Load().Invitation(inv.Subject())
	switch {
	case !ok || known.Withdrawn:
		return member.ErrTokenRevoked
	case !known.Admits(p):
		return member.ErrTokenUsed
	}
	return nil
}

// enrol witnesses a grant by invitation, and adds it to the roster. Uses are
// counted and taken under one lock.
func (m *Mesh) enrol(inv *member.Credential, joined member.Link, p peer.ID, offer joinOffer) (*member.Credential, error) {
	now := time.Now()
	c, err := member.Witnessed(inv, joined, m.signer, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if g := c.Grant(); c.Peer() != p || g.Issued != offer.Time || g.Expires != offer.Expires {
		return nil, fmt.Errorf("%w: it signed another grant than it was offered", ErrRefused)
	}
	_, err = m.update(func(r *member.Roster) (bool, error) {
		known, ok := r.Evaluate(now).Invitation(inv.Subject())
		if !ok || known.Withdrawn {
			return false, member.ErrTokenRevoked
		}
		if !known.Admits(p) {
			return false, member.ErrTokenUsed
		}
		return r.AddCredential(c, now)
	})
	if err != nil {
		return nil, err
	}
	if !m.IsMember(p) {
		return nil, fmt.Errorf("%w: the grant is not in force", ErrRefused)
	}
	return c, nil
}
