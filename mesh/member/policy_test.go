package member

import (
	"errors"
	"math/rand"
	"slices"
	"testing"
	"time"
)

// policyWorld has a founder and two other admins.
func policyWorld(t fataler) (w *world, r *Roster, admins []Signer) {
	w = newWorld(t)
	r = w.roster()
	w.add(r, w.root)
	admins = []Signer{w.founder}
	for range 2 {
		s := w.signer()
		w.add(r, w.issue(w.root, w.founder, nodeGrant(s.Public, Admin, "x", start)))
		admins = append(admins, s)
	}
	return w, r, admins
}

func (w *world) policy(s Signer, counter uint64, text string) *Policy {
	w.t.Helper()
	return must[*Policy](w.t)(SignPolicy(s, w.mesh.Public, Rules{Counter: counter, Document: []byte(text)}, start))
}

func inForce(r *Roster) string {
	if p := r.Evaluate(start).Policy(); p != nil {
		return string(p.Document)
	}
	return ""
}

func TestNewestPolicyCounts(t *testing.T) {
	w, r, admins := policyWorld(t)
	if got := inForce(r); got != "" {
		t.Errorf("policy %q, before any was published", got)
	}
	for i, text := range []string{"one", "two", "three", "four"} {
		p := must[*Policy](t)(r.NextPolicy(admins[i%3], []byte(text), start))
		if changed, err := r.AddPolicy(p); !changed || err != nil {
			t.Fatal(changed, err)
		}
		if got := inForce(r); got != text {
			t.Errorf("policy %q, want %q", got, text)
		}
	}
	if changed, err := r.AddPolicy(w.policy(admins[1], 1, "old")); changed || err != nil {
		t.Errorf("an old policy: changed %v, error %v", changed, err)
	}
	plain := w.signer()
	w.add(r, w.issue(w.root, w.founder, nodeGrant(plain.Public, Member, "y", start)))
	if _, err := r.AddPolicy(w.policy(plain, 99, "mine")); !errors.Is(err, ErrUnfounded) {
		t.Errorf("a policy of a plain member: error %v, want %v", err, ErrUnfounded)
	}
	if _, err := r.AddPolicy(w.policy(w.signer(), 99, "theirs")); !errors.Is(err, ErrUnfounded) {
		t.Errorf("a policy of a stranger: error %v, want %v", err, ErrUnfounded)
	}
}

// TestPoliciesConverge gives two rosters the same statements in other orders.
func TestPoliciesConverge(t *testing.T) {
	w, base, admins := policyWorld(t)
	for range 2 * maxPolicies { // more admins than policies are kept
		s := w.signer()
		w.add(base, w.issue(w.root, w.founder, nodeGrant(s.Public, Admin, "x", start)))
		admins = append(admins, s)
	}
	var all []Statement
	random := rand.New(rand.NewSource(1))
	for i := range 100 {
		p := w.policy(admins[random.Intn(len(admins))], uint64(1+random.Intn(20)), string(rune('a'+i%26)))
		all = append(all, Statement{Policy: p.Bytes()})
	}
	var first *Roster
	for range 20 {
		r := base.Clone()
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for chunk := range slices.Chunk(all, 7) {
			if _, err := r.Merge(chunk, start); err != nil {
				t.Fatal(err)
			}
		}
		if first == nil {
			first = r
		}
		if r.Sum() != first.Sum() || inForce(r) != inForce(first) {
			t.Fatalf("two orders of the same statements: policies %q and %q", inForce(r), inForce(first))
		}
	}
	if n := len(first.policies); n != maxPolicies {
		t.Errorf("%d policies kept, want %d", n, maxPolicies)
	}
}

func TestPolicyOfWhoIsOut(t *testing.T) {
	w, r, admins := policyWorld(t)
	rogue := admins[1]
	must[bool](t)(r.AddPolicy(w.policy(admins[0], 1, "good")))
	must[bool](t)(r.AddPolicy(w.policy(rogue, maxCounter, "bad")))
	if got := inForce(r); got != "bad" {
		t.Fatalf("policy %q, want that with the highest counter", got)
	}
	must[bool](t)(r.AddRevocation(w.revoke(r, w.founder, rogue.Public, start), start))
	if got := inForce(r); got != "good" {
		t.Errorf("policy %q after its author was thrown out, want %q", got, "good")
	}
	p := must[*Policy](t)(r.NextPolicy(admins[2], []byte("better"), start))
	must[bool](t)(r.AddPolicy(p))
	if got := inForce(r); got != "better" {
		t.Errorf("policy %q, want %q: a counter of who is out is in the way", got, "better")
	}
	leave := must[*Revocation](t)(Revoke(admins[2], w.mesh.Public, Removal{Target: admins[2].Public}, start))
	must[bool](t)(r.AddRevocation(leave, start))
	if got := inForce(r); got != "better" {
		t.Errorf("policy %q after its author has left, want %q", got, "better")
	}
}

// TestPolicyLapses: a policy holds as long as its author is remembered, which is 90
// days longer than a credential of a year that nobody renewed.
func TestPolicyLapses(t *testing.T) {
	w, r, admins := policyWorld(t)
	must[bool](t)(r.AddPolicy(w.policy(admins[1], 1, "rules")))
	over := start.Add(year)
	for _, c := range []struct {
		when string
		at   time.Time
		want string
	}{
		{"while its author is a member", over.Add(-time.Hour), "rules"},
		{"89 days after the author's time is over", over.Add(89 * 24 * time.Hour), "rules"},
		{"91 days after it", over.Add(91 * 24 * time.Hour), ""},
	} {
		r.Prune(c.at)
		if got := inForce(r); got != c.want {
			t.Errorf("%s: policy %q, want %q", c.when, got, c.want)
		}
	}
	if _, err := r.AddPolicy(w.policy(admins[1], 1, "rules")); !errors.Is(err, ErrUnfounded) {
		t.Errorf("the lapsed policy comes again from a member that has it yet: %v, want %v", err, ErrUnfounded)
	}
}

func FuzzParsePolicy(f *testing.F) {
	w := newWorld(f)
	f.Add(w.policy(w.founder, 3, "filter = '-'").Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePolicy(b)
		if err != nil {
			return
		}
		if again, err := ParsePolicy(p.Bytes()); err != nil || again.ID() != p.ID() {
			t.Fatalf("not stable: %v", err)
		}
	})
}
