package mesh

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// separate keeps two groups of nodes apart, and heal brings them together.
func separate(a, b []*testNode) {
	for _, x := range a {
		for _, y := range b {
			x.Block(y.ID(), time.Hour)
			y.Block(x.ID(), time.Hour)
		}
	}
}

func heal(a, b []*testNode) {
	for _, x := range a {
		for _, y := range b {
			x.Block(y.ID(), 0)
			y.Block(x.ID(), 0)
		}
	}
}

func (n *testNode) invite(o InviteOptions) string {
	n.t.Helper()
	token, err := n.Invite(o)
	if err != nil {
		n.t.Fatal(err)
	}
	return token
}

func TestTokensThatDoNotAdmit(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin, InviteOptions{Role: member.Admin})
	connected(t, berlin, lisbon)

	used := berlin.invite(InviteOptions{})
	first := node(t, "first")
	first.joinWith(used)
	first.stop() // it could let in whom berlin refuses, until it hears why
	withdrawn := berlin.invite(InviteOptions{})
	if err := berlin.Withdraw(withdrawn); err != nil {
		t.Fatal(err)
	}
	short := berlin.invite(InviteOptions{TTL: time.Second})
	stranded := node(t, "stranded")
	nobody := stranded.invite(InviteOptions{})
	stranded.stop()
	good := berlin.invite(InviteOptions{})

	for name, c := range map[string]struct {
		token string
		want  error
	}{
		"used up":           {used, member.ErrTokenUsed},
		"withdrawn":         {withdrawn, member.ErrTokenRevoked},
		"mistyped":          {good[:30] + strings.Map(func(r rune) rune { return r ^ 1 }, good[30:31]) + good[31:], member.ErrTokenMalformed},
		"nobody answers":    {nobody, ErrNotReachable},
		"not a token":       {"please", member.ErrTokenMalformed},
		"with the end lost": {good[:len(good)-3], member.ErrTokenMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(t, "oslo")
			if err := n.Join(t.Context(), c.token); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if n.View().Len() != 1 {
				t.Error("it is in a mesh with others")
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		n := node(t, "oslo")
		tok, err := member.ParseToken(short)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(tok.Expires()) + 10*time.Millisecond)
		if err := n.Join(t.Context(), short); !errors.Is(err, member.ErrTokenExpired) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("its admin is out", func(t *testing.T) {
		token := lisbon.invite(InviteOptions{})
		eventually(t, "berlin knows the invitation", func() bool {
			tok, _ := member.ParseToken(token)
			_, ok := berlin.View().Invitation(tok.Invitation.Subject())
			return ok
		})
		if _, err := berlin.Revoke(lisbon.ID().String(), "lost laptop"); err != nil {
			t.Fatal(err)
		}
		lisbon.stop()
		if err := node(t, "oslo").Join(t.Context(), token); !errors.Is(err, member.ErrTokenRevoked) {
			t.Errorf("got %v", err)
		}
	})
}

func TestJoinTwice(t *testing.T) {
	berlin, lisbon, paris, rome := node(t, "berlin"), node(t, "lisbon"), node(t, "paris"), node(t, "rome")
	token := berlin.invite(InviteOptions{Uses: 2, Office: "the branch"})
	lisbon.joinWith(token)
	lisbon.joinWith(token) // no error, no further use
	paris.join(rome)
	if err := paris.Join(t.Context(), token); !errors.Is(err, ErrInMesh) {
		t.Errorf("a node that is in a mesh with others joins: %v", err)
	}
	oslo := node(t, "oslo")
	oslo.joinWith(token)
	connected(t, berlin, lisbon, oslo)
	if oslo.Office() != "the branch" || berlin.OfficeOf(lisbon.ID()) != "the branch" {
		t.Errorf("the invitation's office does not count: %q", oslo.Office())
	}
	if _, err := lisbon.Invite(InviteOptions{}); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("a member invites: %v", err)
	}
}

func TestRevokeCutsOff(t *testing.T) {
	berlin, lisbon, oslo, turin := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo"), node(t, "turin")
	for _, n := range []*testNode{lisbon, oslo, turin} {
		n.join(berlin)
	}
	connected(t, berlin, lisbon, oslo, turin)
	turin.stop() // hears of it later
	if _, err := berlin.Revoke("lisbon", "closed"); err != nil {
		t.Fatal(err)
	}
	if berlin.IsMember(lisbon.ID()) || berlin.host.Network().Connectedness(lisbon.ID()) == network.Connected {
		t.Error("the office is still connected when Revoke returns")
	}
	eventually(t, "oslo cuts it off", func() bool {
		return !oslo.IsMember(lisbon.ID()) && oslo.host.Network().Connectedness(lisbon.ID()) != network.Connected
	})
	if slices.Contains(oslo.session.Load().dht.RoutingTable().ListPeers(), lisbon.ID()) {
		t.Error("the DHT still asks it")
	}
	berlin.stop() // what turin hears, it hears from oslo, and berlin must not be needed
	turin.start()
	connected(t, oslo, turin)
	eventually(t, "turin hears of it", func() bool { return !turin.IsMember(lisbon.ID()) })
	berlin.start()
	if berlin.IsMember(lisbon.ID()) {
		t.Error("a restart has brought it back")
	}
	// The same identity cannot come back by another token.
	again := node(t, "lisbon", func(c *Config) { c.Key = lisbon.cfg.Key })
	if err := again.Join(t.Context(), berlin.invite(InviteOptions{})); !errors.Is(err, ErrRemoved) {
		t.Errorf("a revoked node joins by another token: %v", err)
	}
	eventually(t, "lisbon hears that it is out", lisbon.Removed)
	connected(t, berlin, oslo, turin)
	paris := node(t, "paris")
	lisbon.join(paris) // another mesh, at once
	connected(t, lisbon, paris)
}

// TestExpired has a node that was away for too long come back by a new token.
func TestExpired(t *testing.T) {
	brief := func(c *Config) { c.CredentialTTL = time.Minute }
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon", brief)
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	late := time.Now().Add(2 * defaultCredentialTTL / 3 * 2)
	lisbon.mu.Lock()
	gone := lisbon.evaluate(late)
	lisbon.mu.Unlock()
	if !slices.Contains(gone, lisbon.ID()) || !lisbon.Removed() {
		t.Fatal("its credential is in force for ever")
	}
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	if lisbon.Removed() {
		t.Error("it is in, and says that it is not")
	}
}

func TestOutranked(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin, InviteOptions{Role: member.Admin})
	connected(t, berlin, lisbon)
	if _, err := lisbon.Revoke("berlin", ""); !errors.Is(err, ErrNotBelow) {
		t.Errorf("an admin revokes the founder: %v", err)
	}
	if _, err := lisbon.Revoke("paris", ""); !errors.Is(err, ErrNoSuchMember) {
		t.Errorf("an office that is not there: %v", err)
	}
}

func TestLeave(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	if err := berlin.Leave(t.Context()); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("the only admin leaves: %v", err)
	}
	if err := lisbon.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "berlin hears of it", func() bool { return !berlin.IsMember(lisbon.ID()) })
	if lisbon.MeshID() == berlin.MeshID() || lisbon.Role() != member.Admin {
		t.Error("it has no mesh of its own")
	}
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
}

// TestPartition has both sides invite, revoke and admit, and then meet again.
func TestPartition(t *testing.T) {
	a, b, c, d := node(t, "a"), node(t, "b"), node(t, "c"), node(t, "d")
	b.join(a, InviteOptions{Role: member.Admin})
	c.join(a)
	d.join(a)
	connected(t, a, b, c, d)
	once := a.invite(InviteOptions{})
	eventually(t, "b knows of the token", func() bool { return len(b.Invitations()) == len(a.Invitations()) })
	separate([]*testNode{a, c}, []*testNode{b, d})
	left, right := node(t, "left"), node(t, "right")
	separate([]*testNode{left}, []*testNode{b, d})
	separate([]*testNode{right}, []*testNode{a, c, left})
	left.joinWith(once)
	right.joinWith(once) // the other side cannot know
	if _, err := b.Revoke(c.ID().String(), ""); err != nil {
		t.Fatal(err)
	}
	late := node(t, "late")
	separate([]*testNode{late}, []*testNode{a, c, left})
	late.join(b)
	connected(t, a, c, left)
	connected(t, b, d, right, late)
	heal([]*testNode{a, c, left}, []*testNode{b, d, right, late})
	connected(t, a, b, d, left, right, late)
	for _, n := range []*testNode{a, b, d, left, right, late} {
		eventually(t, n.cfg.Office+" has c out", func() bool { return !n.IsMember(c.ID()) })
		eventually(t, n.cfg.Office+" sees the double use", func() bool {
			return slices.ContainsFunc(n.Invitations(), member.Invitation.Overused)
		})
	}
	for _, p := range a.Peers() {
		want := map[peer.ID]int{left.ID(): 1, right.ID(): 1}[p.Peer]
		if len(p.Overused) != want {
			t.Errorf("%s: joined by one use together with %v", p.Office, p.Overused)
		}
	}
	// Invited admins' credentials are renewed into ones without witness; nobody
	// is disturbed by that.
	connected(t, a, b, d, left, right, late)
}

func TestMeshesDoNotMix(t *testing.T) {
	a1, a2, b1, b2 := node(t, "a1"), node(t, "a2"), node(t, "b1"), node(t, "b2")
	a2.join(a1)
	b2.join(b1)
	connected(t, a1, a2)
	connected(t, b1, b2)
	for _, p := range b1.Addrs() { // even when one knows where the other is
		a1.host.Peerstore().AddAddr(b1.ID(), p, time.Hour)
	}
	if err := a1.host.Connect(t.Context(), peer.AddrInfo{ID: b1.ID()}); err == nil {
		t.Error("a node dials another mesh")
	}
	if _, err := a1.Host().NewStream(t.Context(), b1.ID(), "/meshproxy/ping/1"); !errors.Is(err, errStranger) {
		t.Errorf("a stream into another mesh: %v", err)
	}
	if a1.View().Len() != 2 || b1.View().Len() != 2 {
		t.Error("rosters have mixed")
	}
}

func TestRenew(t *testing.T) {
	brief := func(c *Config) { c.CredentialTTL = time.Minute }
	berlin, lisbon := node(t, "berlin", brief), node(t, "lisbon", brief)
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	eventually(t, "the invited node has a credential that needs no witness", func() bool {
		i, ok := lisbon.View().Member(lisbon.ID())
		if !ok {
			return false
		}
		_, _, witnessed := i.Credential.WitnessedBy()
		return !witnessed
	})
	before, _ := berlin.View().Member(lisbon.ID())
	founder, _ := berlin.View().Member(berlin.ID())
	berlin.renew(time.Now().Add(45 * time.Second))
	eventually(t, "both have a later one", func() bool {
		a, ok := lisbon.View().Member(lisbon.ID())
		f, ok2 := lisbon.View().Member(berlin.ID())
		return ok && ok2 && a.Expires.After(before.Expires) && f.Expires.After(founder.Expires)
	})
	connected(t, berlin, lisbon)
}

func TestRename(t *testing.T) {
	founder, invited := node(t, "vm"), node(t, "lima")
	invited.join(founder, InviteOptions{Role: member.Admin, Office: "lima"})
	connected(t, founder, invited)
	if err := founder.Rename("berlin"); err != nil {
		t.Fatal(err)
	}
	if got := founder.Office(); got != "berlin" {
		t.Errorf("the founder's office is %q", got)
	}
	eventually(t, "the other one hears of it", func() bool { return invited.OfficeOf(founder.ID()) == "berlin" })
	founder.restart()
	if got := founder.Office(); got != "berlin" {
		t.Errorf("after a restart it is %q", got)
	}
	if err := founder.Rename("oslo"); err != nil { // within the same second
		t.Fatal(err)
	}
	if got := founder.Office(); got != "oslo" {
		t.Errorf("the second time the founder's office is %q", got)
	}
	if err := invited.Rename("quito"); !errors.Is(err, ErrNamed) || invited.Office() != "lima" {
		t.Errorf("who was invited names itself %s: %v", invited.Office(), err)
	}
	if err := invited.Rename("lima"); err != nil {
		t.Errorf("to the name that it has: %v", err)
	}
}

// Revoking an office that this node is in, too, must not take out a part of it.
func TestRevokeOwnOffice(t *testing.T) {
	a, b := node(t, "berlin"), node(t, "berlin")
	b.join(a)
	connected(t, a, b)
	if _, err := a.Revoke("berlin", ""); !errors.Is(err, ErrSelf) {
		t.Errorf("its own office: %v", err)
	}
	if _, err := a.Revoke(a.ID().String(), ""); !errors.Is(err, ErrSelf) {
		t.Errorf("itself: %v", err)
	}
	if !a.IsMember(b.ID()) {
		t.Error("the other node of the office is out")
	}
	if out, err := a.Revoke(b.ID().String(), ""); err != nil || len(out) != 1 {
		t.Errorf("the other node, by its ID: %v, %v", out, err)
	}
}
