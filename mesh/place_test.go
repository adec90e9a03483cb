package mesh

import (
	"sync"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// lateState calls late once, after the node's own place was kept while late is set.
type lateState struct {
	memoryState
	mu   sync.Mutex // guards late
	late func()
}

func (s *lateState) Put(key string, value []byte) error {
	err := s.memoryState.Put(key, value)
	s.mu.Lock()
	late := s.late
	if key == stateSelf {
		s.late = nil
	}
	s.mu.Unlock()
	if key == stateSelf && late != nil {
		late()
	}
	return err
}

// TestNewPlaceStaysKept: what others told in the old mesh may be kept at the moment in
// which the node moves to a new one; the place that is kept is the new one all the same.
func TestNewPlaceStaysKept(t *testing.T) {
	state := &lateState{}
	m := alone(t, state)
	before := m.session.Load().key
	kept := false
	state.mu.Lock()
	state.late = func() {
		m.mu.Lock()
		m.unsaved = true // a member told something
		m.mu.Unlock()
		if err := m.keepRoster(); err != nil {
			t.Error(err)
		}
		kept = true
	}
	state.mu.Unlock()
	if err := m.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := m.load()
	if err != nil || !kept {
		t.Fatalf("the old place was kept late: %v; %v", kept, err)
	}
	if now := m.session.Load().key; now == before || p.self.Mesh() != now || p.meshKey == nil {
		t.Errorf("the mesh is %s and was %s; kept is %s", now, before, p.self.Mesh())
	}
}

// TestManyStatementsAtOnce: a revocation among more news than a roster remembers is
// pressing, and on disk at once.
func TestManyStatementsAtOnce(t *testing.T) {
	m := alone(t, nil)
	var news []member.Statement
	for range 600 {
		s, err := member.NewSigner(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		c, err := member.Issue(m.self, m.signer, m.grantNode(s.Public, member.Member, "lisbon", time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		news = append(news, member.Statement{Credential: c.Bytes()})
		if len(news) > 1 {
			continue
		}
		v, err := member.Revoke(m.signer, m.roster.Mesh(), member.Removal{Target: s.Public}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		news = append(news, member.Statement{Revocation: v.Bytes()})
	}
	if !m.accept("", news) || !m.pressing.Load() {
		t.Error("a revocation among many newcomers can wait")
	}
	p, err := m.load()
	if err != nil || p.roster.Sum() != m.roster.Sum() {
		t.Errorf("it is not kept at once: %v", err)
	}
}

// TestLateExchangeOfAnotherRoster: an exchange that ends after this node has moved on
// speaks of the roster that it left, and hides no news for longer than to the next one.
func TestLateExchangeOfAnotherRoster(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	berlin.peers.hasAll(lisbon.ID(), 1<<40)
	eventually(t, "berlin knows again what lisbon has", func() bool {
		if err := berlin.syncNow(t.Context(), lisbon.ID()); err != nil {
			t.Log(err)
			return false
		}
		return berlin.peers.upTo(lisbon.ID()) < 1<<40
	})
}

// alone makes a mesh of one node, which ends with the test.
func alone(t *testing.T, state State) *Mesh {
	t.Helper()
	m, err := New(Config{Key: newKey(t), Office: "berlin", NoLAN: true, State: state, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
