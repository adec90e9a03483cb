package verify

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/module"
)

// openRecorded is open for a client that has proofs from records.
func (l *testLog) openRecorded(t testing.TB, recorded func(module.Version) *Proof, remote DBRemote) *Database {
	t.Helper()
	d, err := NewDatabase(DatabaseOptions{Spec: l.spec(), Cache: newMemCache(), Recorded: recorded,
		Sources: []Source{{Name: "source", Remote: remote}}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// lookups is how often the database was asked for modules.
func (l *testLog) lookups() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for path, k := range l.asked {
		if strings.HasPrefix(path, "/lookup/") {
			n += k
		}
	}
	return n
}

func TestRecordedProofs(t *testing.T) {
	const modules = 30
	// Another office has looked everything up, each time in a greater tree.
	prepare := func(t *testing.T) (*testLog, map[module.Version]*Proof) {
		log := newTestLog(t, testDB, "")
		log.grow(t, 700)
		there := log.open(t, newMemCache(), log)
		proofs := make(map[module.Version]*Proof)
		for i := range modules {
			proofs[mod(i)] = mustProve(t, there, mod(i))
			log.grow(t, 3)
		}
		log.mu.Lock()
		clear(log.asked)
		log.mu.Unlock()
		return log, proofs
	}
	t.Run("nothing is looked up again, and the go command is satisfied", func(t *testing.T) {
		log, proofs := prepare(t)
		d := log.openRecorded(t, func(m module.Version) *Proof { return proofs[m] }, log)
		var ms []module.Version
		for i := range modules {
			mustProve(t, d, mod(i))
			ms = append(ms, mod(i))
		}
		if n := log.lookups(); n != 0 {
			t.Errorf("%d lookups of what records prove", n)
		}
		// One head for all of them, and not an extension for each.
		log.mu.Lock()
		heads := log.asked["/latest"]
		log.mu.Unlock()
		if heads != 1 {
			t.Errorf("%d tree heads were asked for, want 1", heads)
		}
		goLookup(t, d, ServeOptions{}, ms...)
		goLookup(t, d, ServeOptions{CachedOnly: true}, ms...)
	})
	for name, spoil := range map[string]func(*Proof) *Proof{
		"no proof":               func(*Proof) *Proof { return nil },
		"of another module":      func(p *Proof) *Proof { p.Text = []byte(strings.ReplaceAll(string(p.Text), "mod7", "mod8")); return p },
		"with another number":    func(p *Proof) *Proof { p.ID++; return p },
		"with a forged head":     func(p *Proof) *Proof { p.TreeHead[len(p.TreeHead)-5] ^= 1; return p },
		"with a hash left out":   func(p *Proof) *Proof { p.Path = p.Path[32:]; return p },
		"with nothing but zeros": func(*Proof) *Proof { return new(Proof) },
	} {
		t.Run(name+": it is looked up", func(t *testing.T) {
			log, proofs := prepare(t)
			d := log.openRecorded(t, func(m module.Version) *Proof { return spoil(proofs[m]) }, log)
			mustProve(t, d, mod(7))
			if n := log.lookups(); n != 1 {
				t.Errorf("%d lookups, want 1", n)
			}
			if f := d.Stats().Failures; f != 0 {
				t.Errorf("%d failures are blamed on the source", f)
			}
		})
	}
	t.Run("of another history: the alarm is raised", func(t *testing.T) {
		log, _ := prepare(t)
		other := log.fork()
		other.grow(t, 900)
		forged := mustForge(t, other, mod(7))
		d := log.openRecorded(t, func(m module.Version) *Proof {
			if m == mod(7) {
				return forged
			}
			return nil
		}, log)
		mustProve(t, d, mod(1))
		log.grow(t, 400) // greater than the other one
		mustProve(t, d, mod(2))
		if _, err := d.Prove(t.Context(), mod(7)); !errors.Is(err, ErrSecurity) {
			t.Errorf("got %v, want an error that tells of the fork", err)
		}
	})
	t.Run("with nobody in reach it is as before", func(t *testing.T) {
		log, proofs := prepare(t)
		d := log.openRecorded(t, func(m module.Version) *Proof { return proofs[m] }, down)
		if _, err := d.Prove(t.Context(), mod(7)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable: there are no tiles for clients", err)
		}
	})
}

// mustForge is a database's proof about m, whatever it says.
func mustForge(t *testing.T, l *testLog, m module.Version) *Proof {
	t.Helper()
	p, err := l.open(t, newMemCache(), l).Prove(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
