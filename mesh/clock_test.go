package mesh

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// logged collects what a node logs.
type logged struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

func (l *logged) at(c *Config) { c.Log = slog.New(slog.NewTextHandler(l, nil)) }

// own is the node's credential, which time renews.
func (n *testNode) own() *member.Credential {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.self
}

// TestCredentialsOutOfTime: whoever refuses a credential for its time says so with
// both times, in its log.
func TestCredentialsOutOfTime(t *testing.T) {
	for name, c := range map[string]struct {
		shift time.Duration
		says  string
	}{
		"one for later":   {2 * time.Hour, "is not in force before"},
		"one of the past": {-8 * time.Minute, "has expired on"},
	} {
		t.Run(name, func(t *testing.T) {
			var log logged
			berlin := node(t, "berlin", log.at)
			key := newKey(t)
			s, err := member.NewSigner(key)
			if err != nil {
				t.Fatal(err)
			}
			g := berlin.grantNode(s.Public, member.Member, "x", time.Now().Add(c.shift))
			g.Expires = g.Issued + 60
			cred, err := member.Issue(berlin.own(), berlin.signer, g)
			if err != nil {
				t.Fatal(err)
			}
			msg, err := encMode.Marshal(helloOpen{[]member.Statement{{Credential: cred.Bytes()}}})
			if err != nil {
				t.Fatal(err)
			}
			h := outsider(t, key)
			dial(t, h, berlin)
			b, err := ask(t, h, berlin, berlin.session.Load().protocol(helloID), msg)
			var reply helloReply
			if err == nil {
				err = decodeMessage(b, &reply)
			}
			if err != nil || reply.Status == statusOK || len(reply.Statements) > 0 || reply.Time == 0 {
				t.Errorf("it is answered %+v, %v", reply, err)
			}
			eventually(t, "berlin says why", func() bool { return log.has(c.says) && log.has("and the clock says") })
		})
	}
}

// TestClocksAreCompared: members tell the time, and one whose clock is off learns it.
func TestClocksAreCompared(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	eventually(t, "berlin knows what time it is at lisbon", func() bool { _, n := berlin.ClockOffset(); return n == 1 })
	if ahead, _ := berlin.ClockOffset(); ahead.Abs() > clockDoubt {
		t.Errorf("one clock is %v ahead of itself", ahead)
	}
	berlin.peers.toldTime(lisbon.ID(), time.Now().Add(-3*time.Hour).Unix())
	if ahead, n := berlin.ClockOffset(); n != 1 || (ahead-3*time.Hour).Abs() > time.Minute {
		t.Errorf("berlin takes itself for %v ahead of %d members, want 3h of 1", ahead, n)
	}
	if text := apart(time.Now().Add(-3 * time.Hour).Unix()); !strings.Contains(text, "ahead") {
		t.Errorf("it says %q", text)
	}
	if text := apart(time.Now().Add(time.Minute).Unix()); text != "" {
		t.Errorf("of a minute it says %q", text)
	}
}

// TestStanding: a node whose clock has jumped says that it is out of its own time.
func TestStanding(t *testing.T) {
	berlin := node(t, "berlin")
	if err := berlin.Standing(); err != nil {
		t.Errorf("a member: %v", err)
	}
	g := berlin.own().Grant()
	for want, at := range map[error]int64{errNotYet: g.Issued - 3600, errExpired: g.Expires + 1} {
		if err := inForce(g, time.Unix(at, 0)); !errors.Is(err, want) {
			t.Errorf("at %d: %v, want %v", at, err, want)
		}
	}
	berlin.outcast.Store(true)
	if err := berlin.Standing(); !errors.Is(err, ErrRemoved) {
		t.Errorf("revoked: %v", err)
	}
}

// TestClockThatWasAhead: a clock that jumps ahead for a moment takes everybody out, and
// brings them back when it is right again, also where nobody calls to say hello.
func TestClockThatWasAhead(t *testing.T) {
	berlin := node(t, "berlin")
	berlin.expire(time.Now().AddDate(30, 0, 0))
	if berlin.Standing() == nil {
		t.Fatal("in thirty years its credential is in force still")
	}
	eventually(t, "berlin is in its mesh again", func() bool { return berlin.Standing() == nil })
}
