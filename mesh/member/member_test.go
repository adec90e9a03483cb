package member

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// start is when all tests begin; no test looks at the clock.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

type fataler interface {
	Helper()
	Fatal(...any)
}

// signer makes the nth key of a world: the same in every run, so that what fails
// once fails again.
func signer(t fataler, n uint64) Signer {
	t.Helper()
	seed := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
	return must[Signer](t)(bearerOf(seed[:]))
}

func nodeGrant(k Key, r Role, office string, at time.Time) Grant {
	return Grant{Kind: Node, Subject: k, Role: r, Office: office, Issued: at.Unix(), Expires: at.Add(year).Unix()}
}

func inviteGrant(k Key, r Role, office string, uses uint32, at time.Time) Grant {
	return Grant{Kind: Invite, Subject: k, Role: r, Office: office, Uses: uses, Issued: at.Unix(), Expires: at.Add(24 * time.Hour).Unix()}
}

func must[T any](t fataler) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// world is a mesh with its founder.
type world struct {
	t       fataler
	mesh    Signer
	founder Signer
	root    *Credential
	keys    uint64 // made so far
}

func newWorld(t fataler) *world {
	w := &world{t: t}
	w.mesh, w.founder = w.signer(), w.signer()
	w.root = must[*Credential](t)(Found(w.mesh, nodeGrant(w.founder.Public, Admin, "berlin", start)))
	return w
}

func (w *world) signer() Signer {
	w.keys++
	return signer(w.t, w.keys)
}

func (w *world) roster() *Roster { return NewRoster(w.mesh.Public, w.founder.Public) }

func (w *world) issue(by *Credential, s Signer, g Grant) *Credential {
	w.t.Helper()
	return must[*Credential](w.t)(Issue(by, s, g))
}

// enrol has a new node join by an invitation, witnessed by w.
func (w *world) enrol(inv *Credential, bearer, node, witness Signer, office string, at time.Time) *Credential {
	w.t.Helper()
	g := nodeGrant(node.Public, inv.Grant().Role, office, at)
	l := must[Link](w.t)(SignJoin(bearer, w.mesh.Public, g))
	return must[*Credential](w.t)(Witnessed(inv, l, witness, at))
}

func (w *world) revoke(r *Roster, s Signer, target Key, at time.Time) *Revocation {
	w.t.Helper()
	return must[*Revocation](w.t)(Revoke(s, w.mesh.Public, Removal{Target: target, Keep: r.KeepOf(target, at)}, at))
}

func (w *world) add(r *Roster, cs ...*Credential) {
	w.t.Helper()
	for _, c := range cs {
		must[bool](w.t)(r.AddCredential(c, start))
	}
}

func isMember(r *Roster, s Signer, at time.Time) bool {
	_, ok := r.Evaluate(at).Member(s.Public.Peer())
	return ok
}

func TestEnrolByInvitation(t *testing.T) {
	w := newWorld(t)
	bearer, seed, err := NewBearer()
	if err != nil {
		t.Fatal(err)
	}
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 1, start))
	token := must[*Token](t)(NewToken(inv, seed, nil))
	read := must[*Token](t)(ParseToken("  " + token.String()[:40] + "\n" + token.String()[40:] + "\n"))
	if read.Invitation.ID() != inv.ID() || read.Bearer.Public != bearer.Public {
		t.Error("the token reads back as another one")
	}
	lisbon := w.signer()
	c := w.enrol(inv, read.Bearer, lisbon, w.founder, "lisbon", start)
	r := w.roster()
	w.add(r, w.root, inv, c)
	i, ok := r.Evaluate(start).Member(lisbon.Public.Peer())
	if !ok || i.Office != "lisbon" || i.Role != Member {
		t.Errorf("after joining: %+v, %v", i, ok)
	}
	got, _ := r.Evaluate(start).Invitation(bearer.Public)
	if len(got.Admitted) != 1 || got.Admits(w.signer().Public.Peer()) || !got.Admits(lisbon.Public.Peer()) {
		t.Errorf("the invitation for one counts wrong: %+v", got)
	}
	if isMember(r, lisbon, start.Add(year)) {
		t.Error("a credential is in force when it has expired")
	}
}

func TestWitnessIsNeeded(t *testing.T) {
	w := newWorld(t)
	bearer := w.signer()
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 9, start))
	a, b := w.signer(), w.signer()
	link := must[Link](t)(SignJoin(bearer, w.mesh.Public, nodeGrant(a.Public, Member, "x", start)))
	if _, err := newCredential(credentialWire{w.mesh.Public, append(inv.Links(), link), nil}); !errors.Is(err, ErrChain) {
		t.Errorf("a grant by token without witness: %v", err)
	}
	if _, err := Witnessed(inv, link, a, start); !errors.Is(err, ErrChain) {
		t.Errorf("a node witnesses itself: %v", err)
	}
	// Two holders of a token vouch for each other.
	r := w.roster()
	w.add(r, w.root, inv)
	ca := must[*Credential](t)(Witnessed(inv, link, b, start))
	cb := w.enrol(inv, bearer, b, a, "y", start)
	_, err := r.Merge([]Statement{{Credential: ca.Bytes()}, {Credential: cb.Bytes()}}, start)
	if !errors.Is(err, ErrUnfounded) || isMember(r, a, start) || isMember(r, b, start) {
		t.Errorf("two strangers witness each other in: %v", err)
	}
}

func TestChainsThatDoNotHold(t *testing.T) {
	w := newWorld(t)
	plain, other := w.signer(), w.signer()
	member := w.issue(w.root, w.founder, nodeGrant(plain.Public, Member, "lisbon", start))
	bearer := w.signer()
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "oslo", 1, start))
	link := func(s Signer, g Grant) Link { return must[Link](t)(signGrant(s, w.mesh.Public, g)) }
	chain := func(above *Credential, l Link) error {
		_, err := newCredential(credentialWire{w.mesh.Public, append(above.Links(), l), nil})
		return err
	}
	forged := w.root.Links()
	forged[0].Signature = bytes.Clone(forged[0].Signature)
	forged[0].Signature[0] ^= 1
	cases := map[string]error{
		"a member grants":                  chain(member, link(plain, nodeGrant(other.Public, Member, "x", start))),
		"another key signs":                chain(w.root, link(other, nodeGrant(other.Public, Member, "x", start))),
		"an invitation invites":            chain(inv, link(bearer, inviteGrant(other.Public, Member, "", 1, start))),
		"more rights than invited to":      chain(inv, link(bearer, nodeGrant(other.Public, Admin, "oslo", start))),
		"another office than invited to":   chain(inv, link(bearer, nodeGrant(other.Public, Member, "x", start))),
		"after the invitation has expired": chain(inv, link(bearer, nodeGrant(other.Public, Member, "oslo", start.Add(25*time.Hour)))),
		"the mesh key grants a member":     chain(&Credential{}, link(w.mesh, nodeGrant(other.Public, Member, "x", start))),
		"no link at all": func() error {
			_, err := newCredential(credentialWire{Mesh: w.mesh.Public})
			return err
		}(),
		"a flipped bit in a signature": func() error {
			_, err := newCredential(credentialWire{w.mesh.Public, forged, nil})
			return err
		}(),
		"the signature of another mesh": func() error {
			_, err := newCredential(credentialWire{other.Public, w.root.Links(), nil})
			return err
		}(),
	}
	for name, err := range cases {
		if !errors.Is(err, ErrChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := w.root
	s := w.founder
	for range MaxLinks - 1 {
		next := w.signer()
		long, s = w.issue(long, s, nodeGrant(next.Public, Admin, "x", start)), next
	}
	if err := chain(long, link(s, nodeGrant(other.Public, Member, "x", start))); !errors.Is(err, ErrChain) {
		t.Errorf("a chain of %d links: %v", MaxLinks+1, err)
	}
}

func TestSecondFounderIsRefused(t *testing.T) {
	w := newWorld(t)
	thief := w.signer()
	r := w.roster()
	w.add(r, w.root)
	second := must[*Credential](t)(Found(w.mesh, nodeGrant(thief.Public, Admin, "x", start)))
	if _, err := r.AddCredential(second, start); !errors.Is(err, ErrOtherMesh) || isMember(r, thief, start) {
		t.Errorf("a founder made with the leaked mesh key: %v", err)
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	admin, plain, late := w.signer(), w.signer(), w.signer()
	ca := w.issue(w.root, w.founder, nodeGrant(admin.Public, Admin, "lisbon", start))
	cp := w.issue(ca, admin, nodeGrant(plain.Public, Member, "oslo", start))
	cl := w.issue(ca, admin, nodeGrant(late.Public, Member, "turin", start))
	r := w.roster()
	w.add(r, w.root, ca, cp)
	rev := w.revoke(r, w.founder, admin.Public, start)
	must[bool](t)(r.AddRevocation(rev, start))
	w.add(r, cl) // granted before, heard of after: nobody can tell from granted after
	if isMember(r, admin, start) {
		t.Error("the revoked admin is in")
	}
	if !isMember(r, plain, start) {
		t.Error("what it granted before is out too")
	}
	if isMember(r, late, start) {
		t.Error("what it granted unseen is in")
	}
	again := w.issue(w.root, w.founder, nodeGrant(admin.Public, Member, "lisbon", start.Add(time.Hour)))
	w.add(r, again)
	if isMember(r, admin, start.Add(2*time.Hour)) {
		t.Error("adding outranks removal")
	}
}

func TestWhoMayRevoke(t *testing.T) {
	w := newWorld(t)
	admin, below, plain := w.signer(), w.signer(), w.signer()
	ca := w.issue(w.root, w.founder, nodeGrant(admin.Public, Admin, "lisbon", start))
	cb := w.issue(ca, admin, nodeGrant(below.Public, Admin, "oslo", start))
	cp := w.issue(w.root, w.founder, nodeGrant(plain.Public, Member, "turin", start))
	r := w.roster()
	w.add(r, w.root, ca, cb, cp)
	for name, c := range map[string]struct {
		by     Signer
		target Key
		ok     bool
	}{
		"founder an admin":          {w.founder, admin.Public, true},
		"admin a member":            {admin, plain.Public, true},
		"admin its own subordinate": {admin, below.Public, true},
		"subordinate its admin":     {below, admin.Public, false},
		"admin the founder":         {admin, w.founder.Public, false},
		"member anybody":            {plain, below.Public, false},
		"member itself":             {plain, plain.Public, true},
		"stranger anybody":          {w.signer(), plain.Public, false},
	} {
		_, err := r.Clone().AddRevocation(w.revoke(r, c.by, c.target, start), start)
		if ok := err == nil; ok != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRevokedAdminHitsBack has a revoked admin sign revocations afterwards.
func TestRevokedAdminHitsBack(t *testing.T) {
	w := newWorld(t)
	a, b, plain := w.signer(), w.signer(), w.signer()
	ca := w.issue(w.root, w.founder, nodeGrant(a.Public, Admin, "lisbon", start))
	cb := w.issue(w.root, w.founder, nodeGrant(b.Public, Admin, "oslo", start))
	cp := w.issue(w.root, w.founder, nodeGrant(plain.Public, Member, "turin", start))
	base := w.roster()
	w.add(base, w.root, ca, cb, cp)
	byFounder := w.revoke(base, w.founder, a.Public, start)
	backB, backP := w.revoke(base, a, b.Public, start.Add(-time.Hour)), w.revoke(base, a, plain.Public, start.Add(-time.Hour))
	r := base.Clone()
	for _, v := range []*Revocation{backB, backP, byFounder} {
		must[bool](t)(r.AddRevocation(v, start))
	}
	if isMember(r, a, start) || !isMember(r, b, start) || !isMember(r, plain, start) {
		t.Error("a revocation by one who was revoked from above counts")
	}
	r = base.Clone()
	for _, v := range []*Revocation{backB, backP, w.revoke(base, b, a.Public, start)} {
		must[bool](t)(r.AddRevocation(v, start))
	}
	if isMember(r, a, start) || isMember(r, b, start) {
		t.Error("of two admins that revoke each other one stays")
	}
	if !isMember(r, plain, start) {
		t.Error("a third one goes with them")
	}
	kept := base.Clone()
	must[bool](t)(kept.AddRevocation(backP, start))
	must[bool](t)(kept.AddRevocation(w.revoke(kept, w.founder, a.Public, start), start))
	if isMember(kept, plain, start) {
		t.Error("a revocation from when its author was an admin is undone")
	}
}

func TestLeaveAndComeBack(t *testing.T) {
	w := newWorld(t)
	plain := w.signer()
	r := w.roster()
	w.add(r, w.root, w.issue(w.root, w.founder, nodeGrant(plain.Public, Member, "oslo", start)))
	must[bool](t)(r.AddRevocation(w.revoke(r, plain, plain.Public, start.Add(time.Hour)), start))
	if isMember(r, plain, start.Add(time.Hour)) {
		t.Error("it is in after it has left")
	}
	w.add(r, w.issue(w.root, w.founder, nodeGrant(plain.Public, Member, "oslo", start.Add(2*time.Hour))))
	if !isMember(r, plain, start.Add(3*time.Hour)) {
		t.Error("it cannot come back")
	}
}

func TestTokenTexts(t *testing.T) {
	w := newWorld(t)
	bearer, seed, _ := NewBearer()
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 1, start))
	text := must[*Token](t)(NewToken(inv, seed, []Hint{{Peer: w.founder.Public, Addrs: [][]byte{{4, 127, 0, 0, 1, 6, 1, 187}}}})).String()
	if _, err := ParseToken(text); err != nil {
		t.Fatal(err)
	}
	for i := len(tokenPrefix); i < len(text); i++ { // every single mistyped character
		c := byte('A')
		if text[i] == c {
			c = 'B'
		}
		if _, err := ParseToken(text[:i] + string(c) + text[i+1:]); !errors.Is(err, ErrTokenMalformed) {
			t.Fatalf("character %d wrong: %v", i, err)
		}
	}
	for name, bad := range map[string]string{
		"empty":         "",
		"cut off":       text[:len(text)-5],
		"no prefix":     text[len(tokenPrefix):],
		"another one":   "meshproxy9-" + text[len(tokenPrefix):],
		"twice":         text + text,
		"far too long":  strings.Repeat("A", MaxToken+1),
		"only a prefix": tokenPrefix,
	} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrTokenMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRostersConverge gives the same statements to rosters in different orders,
// with repetitions and in portions, and asks them who is in.
func TestRostersConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		all := drawStatements(t, w)
		at := start.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "days")) * 24 * time.Hour)
		a, b := w.roster(), w.roster()
		_, _ = a.Merge(all, start) // what does not hold is left out, alike in both
		shuffled := rapid.Permutation(append(slices.Clone(all), all[:len(all)/2]...)).Draw(t, "order")
		for len(shuffled) > 0 {
			n := rapid.IntRange(1, len(shuffled)).Draw(t, "portion")
			_, _ = b.Merge(shuffled[:n], start)
			shuffled = shuffled[n:]
		}
		_, _ = b.Merge(all, start) // an exchange repeats what was refused for its order
		if a.Sum() != b.Sum() {
			t.Fatalf("the sets differ: %d and %d statements", len(a.IDs()), len(b.IDs()))
		}
		va, vb := a.Evaluate(at), b.Evaluate(at)
		if !slices.EqualFunc(va.Members(), vb.Members(), func(x, y Info) bool { return x.Peer == y.Peer && x.Credential.ID() == y.Credential.ID() }) {
			t.Fatal("they differ on who is in")
		}
		for subject := range a.credentials {
			if _, in := va.Member(subject.key.Peer()); in != a.has(subject.key, at) {
				t.Fatalf("%s is a member: %v by the view of all, %v by one of it alone", subject.key, in, !in)
			}
		}
		saved := w.roster()
		if _, err := saved.Merge(a.Statements(func(ID) bool { return true }), start); err != nil || saved.Sum() != a.Sum() {
			t.Fatalf("a saved roster comes back as another: %v", err)
		}
	})
}

// drawStatements lets random admins grant, invite, renew and revoke.
func drawStatements(t *rapid.T, w *world) []Statement {
	type node struct {
		s Signer
		c *Credential
	}
	nodes := []node{{w.founder, w.root}}
	out := []Statement{{Credential: w.root.Bytes()}}
	local := w.roster()
	w.add(local, w.root)
	for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
		at := start.Add(time.Duration(i) * time.Minute)
		by := rapid.SampledFrom(nodes).Draw(t, "by")
		target := rapid.SampledFrom(nodes).Draw(t, "target")
		role := rapid.SampledFrom([]Role{Member, Admin}).Draw(t, "role")
		switch rapid.SampledFrom([]string{"grant", "grant", "invite", "renew", "revoke"}).Draw(t, "act") {
		case "grant":
			s := w.signer()
			if c, err := Issue(by.c, by.s, nodeGrant(s.Public, role, "x", at)); err == nil {
				nodes = append(nodes, node{s, c})
				out = append(out, Statement{Credential: c.Bytes()})
				_, _ = local.AddCredential(c, at)
			}
		case "renew":
			if c, err := Issue(by.c, by.s, nodeGrant(target.s.Public, role, "x", at)); err == nil {
				out = append(out, Statement{Credential: c.Bytes()})
				_, _ = local.AddCredential(c, at)
			}
		case "invite":
			bearer := w.signer()
			if inv, err := Issue(by.c, by.s, inviteGrant(bearer.Public, role, "", 1, at)); err == nil {
				s := w.signer()
				c := w.enrol(inv, bearer, s, target.s, "y", at)
				nodes = append(nodes, node{s, c})
				out = append(out, Statement{Credential: inv.Bytes()}, Statement{Credential: c.Bytes()})
				_, _ = local.Merge(out[len(out)-2:], at)
			}
		case "revoke":
			var keep []ID
			if rapid.Bool().Draw(t, "keeps") {
				keep = local.KeepOf(target.s.Public, at)
			}
			v := must[*Revocation](t)(Revoke(by.s, w.mesh.Public, Removal{Target: target.s.Public, Keep: keep}, at))
			out = append(out, Statement{Revocation: v.Bytes()})
			_, _ = local.AddRevocation(v, at)
		}
	}
	return out
}

func TestPruneForgetsAlike(t *testing.T) {
	w := newWorld(t)
	bearer := w.signer()
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 1, start))
	r := w.roster()
	w.add(r, w.root, inv)
	later := start.Add(keepExpired + 25*time.Hour)
	if !r.Prune(later) {
		t.Fatal("nothing was forgotten")
	}
	if _, err := r.AddCredential(inv, later); !errors.Is(err, ErrStale) {
		t.Errorf("what was forgotten comes back: %v", err)
	}
	if !isMember(r, w.founder, later) {
		t.Error("the founder was forgotten")
	}
}

func TestRosterIsBounded(t *testing.T) {
	w := newWorld(t)
	r := w.roster()
	w.add(r, w.root)
	for range MaxMembers {
		c := w.issue(w.root, w.founder, nodeGrant(w.signer().Public, Member, "x", start))
		if _, err := r.AddCredential(c, start); err != nil {
			if !errors.Is(err, ErrFull) || len(r.IDs()) != MaxMembers {
				t.Fatalf("at %d statements: %v", len(r.IDs()), err)
			}
			return
		}
	}
	t.Fatal("there is no end to it")
}
