package member

import (
	"errors"
	"testing"
	"time"
)

// insider is a mesh in which a plain member has kept the token that it joined by.
type insider struct {
	*world
	r        *Roster
	inv      *Credential
	bearer   Signer
	self     Signer
	admin    Signer
	adminOwn *Credential
}

func newInsider(t fataler) *insider {
	w := newWorld(t)
	i := &insider{world: w, r: w.roster(), bearer: w.signer(), self: w.signer(), admin: w.signer()}
	i.inv = w.issue(w.root, w.founder, inviteGrant(i.bearer.Public, Member, "", 1, start))
	i.adminOwn = w.issue(w.root, w.founder, nodeGrant(i.admin.Public, Admin, "paris", start))
	w.add(i.r, w.root, i.inv, i.adminOwn, w.enrol(i.inv, i.bearer, i.self, w.founder, "x", start))
	return i
}

// TestLeavesOfOneMemberAreOne has a member say again and again that it has left, at times
// before it came: it is still in, and no room for other revocations must be gone.
func TestLeavesOfOneMemberAreOne(t *testing.T) {
	i := newInsider(t)
	for n := range 20 {
		v, err := Revoke(i.self, i.mesh.Public, Removal{Target: i.self.Public}, start.Add(-time.Duration(20-n)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.r.AddRevocation(v, start); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(i.r.revocations); n != 1 {
		t.Errorf("%d revocations are kept of one that leaves, want the last", n)
	}
	if !isMember(i.r, i.self, start) {
		t.Error("it is out, although it has joined since")
	}
	large := Removal{Target: i.self.Public, By: i.self.Public, At: start.Unix(), Keep: []ID{i.inv.ID()}}
	sig, err := i.self.sign(domainRevocation, i.mesh.Public, encode(large))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newRevocation(revocationWire{i.mesh.Public, encode(large), sig}); !errors.Is(err, ErrRevocation) {
		t.Errorf("a leave with a list of what shall stand, of which nothing falls: %v", err)
	}
}

// TestTokenHolderDemotesNobody has a member grant by its old token to the admins, who
// did not ask for it: what they are by their own credentials they stay.
func TestTokenHolderDemotesNobody(t *testing.T) {
	i := newInsider(t)
	later := start.Add(time.Hour)
	for n := range 8 {
		for _, victim := range []Signer{i.founder, i.admin} {
			forged := i.enrol(i.inv, i.bearer, victim, i.self, "nowhere", later.Add(time.Duration(n)*time.Second))
			if _, err := i.r.AddCredential(forged, later); err != nil {
				t.Fatal(err)
			}
		}
	}
	v := i.r.Evaluate(later.Add(time.Minute))
	for office, victim := range map[string]Signer{"berlin": i.founder, "paris": i.admin} {
		if m, ok := v.Member(victim.Public.Peer()); !ok || m.Role != Admin || m.Office != office {
			t.Errorf("the admin of %s is now %s at %q", office, m.Role, m.Office)
		}
	}
	rev := i.revoke(i.r, i.founder, i.self.Public, later)
	if _, err := i.r.AddRevocation(rev, later); err != nil || isMember(i.r, i.self, later) {
		t.Errorf("it cannot be thrown out: %v", err)
	}
}

// TestAdminDemotesNobodyAbove has an admin grant to the one that its own right comes
// from, whom it cannot revoke either.
func TestAdminDemotesNobodyAbove(t *testing.T) {
	i := newInsider(t)
	later := start.Add(time.Hour)
	for n := range 8 {
		c := i.issue(i.adminOwn, i.admin, nodeGrant(i.founder.Public, Member, "nowhere", later.Add(time.Duration(n)*time.Second)))
		if _, err := i.r.AddCredential(c, later); err != nil {
			t.Fatal(err)
		}
	}
	if m, ok := i.r.Evaluate(later.Add(time.Minute)).Member(i.founder.Public.Peer()); !ok || m.Role != Admin || m.Office != "berlin" {
		t.Errorf("the founder is now %s at %q", m.Role, m.Office)
	}
	rev := i.revoke(i.r, i.founder, i.admin.Public, later)
	if _, err := i.r.AddRevocation(rev, later); err != nil || isMember(i.r, i.admin, later) {
		t.Errorf("it cannot be thrown out: %v", err)
	}
}

// TestAdminIsRenewedFromBelow: when those above are gone, who has its right from an
// admin may still renew that one's credential.
func TestAdminIsRenewedFromBelow(t *testing.T) {
	i := newInsider(t)
	below := i.signer()
	own := i.issue(i.adminOwn, i.admin, nodeGrant(below.Public, Admin, "rome", start))
	i.add(i.r, own)
	for n := range maxPerSubject { // those above have renewed it often
		i.add(i.r, i.issue(i.root, i.founder, nodeGrant(i.admin.Public, Admin, "paris", start.Add(time.Duration(n+1)*time.Hour))))
	}
	i.add(i.r, i.issue(own, below, nodeGrant(i.admin.Public, Admin, "paris", start.Add(year/2))))
	if !isMember(i.r, i.admin, start.Add(year+year/4)) {
		t.Error("the renewal does not count")
	}
}

// TestGuestsMakeNobodyIrrevocable has a member let in more nodes by its old token than a
// revocation can let stand.
func TestGuestsMakeNobodyIrrevocable(t *testing.T) {
	i := newInsider(t)
	for range MaxKeep + 1 {
		i.add(i.r, i.enrol(i.inv, i.bearer, i.signer(), i.self, "guest", start))
	}
	for what, target := range map[string]Key{"the member": i.self.Public, "its token": i.bearer.Public} {
		v, err := Revoke(i.founder, i.mesh.Public, Removal{Target: target, Keep: i.r.KeepOf(target, start)}, start)
		if err != nil {
			t.Errorf("%s cannot be revoked: %v", what, err)
			continue
		}
		if _, err := i.r.AddRevocation(v, start); err != nil {
			t.Errorf("%s is not revoked: %v", what, err)
		}
	}
}
