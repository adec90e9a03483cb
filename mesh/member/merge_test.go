package member

import (
	"testing"
	"time"
)

// TestMergeChecksEachStatementOnce: a chain of guests that comes in the wrong order is
// read once, however many rounds it takes.
func TestMergeChecksEachStatementOnce(t *testing.T) {
	w := newWorld(t)
	bearer := w.signer()
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 1, start))
	r := w.roster()
	w.add(r, w.root, inv)
	const guests = 300
	var chain []Statement
	witness := w.founder
	for range guests {
		guest := w.signer()
		chain = append([]Statement{{Credential: w.enrol(inv, bearer, guest, witness, "guest", start).Bytes()}}, chain...)
		witness = guest
	}
	once := time.Now()
	for _, s := range chain {
		must[*Credential](t)(ParseCredential(s.Credential))
	}
	limit := 20 * time.Since(once)
	began := time.Now()
	if _, err := r.Merge(chain, start); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > limit {
		t.Errorf("to take in %d statements took %v, more than 20 times what it takes to check them", guests, took)
	}
}
