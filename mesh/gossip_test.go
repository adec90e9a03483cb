package mesh

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// TestNewsThatCanWait: news is told at once after a quiet time; in busy times what can
// wait is gathered, and what cannot is told at once with the rest.
func TestNewsThatCanWait(t *testing.T) {
	const pause = 10 * time.Second
	cases := map[string]struct {
		told     time.Duration // before the news
		pressing time.Duration // after it; 0 is never
		want     time.Duration
	}{
		"the first for a long time":   {told: time.Hour, want: gossipPause},
		"soon after other news":       {told: 3 * time.Second, want: pause - 3*time.Second + gossipPause},
		"pressing, after other news":  {told: 3 * time.Second, pressing: time.Nanosecond, want: time.Nanosecond + gossipPause},
		"pressing news on top of it":  {told: 3 * time.Second, pressing: 2 * time.Second, want: 2*time.Second + gossipPause},
		"pressing news, but too late": {told: 3 * time.Second, pressing: time.Minute, want: pause - 3*time.Second + gossipPause},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &Mesh{changed: make(chan struct{}, 1)}
				start := time.Now()
				if c.pressing > 0 {
					time.AfterFunc(c.pressing, func() { m.pressing.Store(true); signal(m.changed) })
				}
				time.AfterFunc(time.Second, func() { signal(m.changed) }) // another newcomer hurries nobody
				if err := m.gather(t.Context(), start.Add(-c.told).Add(pause)); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(start); got != c.want {
					t.Errorf("told after %v, want %v", got, c.want)
				}
				time.Sleep(2 * time.Minute) // until all timers have run
			})
		})
	}
}

// TestLargeMeshesTellLess: all members together tell of newcomers forty times a second
// at most, and none waits for more than a minute.
func TestLargeMeshesTellLess(t *testing.T) {
	for members, want := range map[int]time.Duration{1: 200 * time.Millisecond, 5: time.Second, 50: 10 * time.Second, 200: 40 * time.Second, 2000: time.Minute} {
		if got := calm(members); got != want {
			t.Errorf("%d members: %v between news, want %v", members, got, want)
		}
	}
}

// TestWhatIsPressing: newcomers and invitations can wait; rules, and who is out, cannot.
func TestWhatIsPressing(t *testing.T) {
	m := alone(t, nil)
	token, err := m.Invite(InviteOptions{})
	if err != nil || m.pressing.Load() {
		t.Errorf("an invitation cannot wait: %v", err)
	}
	if _, err := m.PublishPolicy([]byte("rules")); err != nil || !m.pressing.Swap(false) {
		t.Errorf("a policy can wait: %v", err)
	}
	if err := m.Withdraw(token); err != nil || !m.pressing.Load() {
		t.Errorf("a revocation can wait: %v", err)
	}
}

// TestRoundTripsAreMeasuredInTurns: each time a few members, in the end all.
func TestRoundTripsAreMeasuredInTurns(t *testing.T) {
	b := &peerBook{known: map[peer.ID]*contact{}}
	all := []peer.ID{"a", "b", "c", "d", "e"}
	var seen []peer.ID
	synctest.Test(t, func(*testing.T) {
		for range 3 {
			seen = append(seen, b.unmeasured(slices.Clone(all), 2)...)
			time.Sleep(pingEvery)
		}
	})
	if slices.Sort(seen); len(seen) != 6 || !slices.Equal(slices.Compact(seen), all) {
		t.Errorf("measured in 3 turns of 2 of %v: %v", all, seen)
	}
}

// TestWhatOthersTellIsKept: who is out is on disk at once, newcomers soon, and what
// this node does itself at once.
func TestWhatOthersTellIsKept(t *testing.T) {
	state := &memoryState{}
	m, err := New(Config{Key: newKey(t), Office: "berlin", NoLAN: true, State: state, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	kept := func() bool {
		p, err := m.load()
		if err != nil {
			t.Fatal(err)
		}
		return p.roster.Sum() == m.roster.Sum()
	}
	newcomer := func() (member.Key, member.Statement) {
		s, err := member.NewSigner(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		c, err := member.Issue(m.self, m.signer, m.grantNode(s.Public, member.Member, "lisbon", time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		return s.Public, member.Statement{Credential: c.Bytes()}
	}
	k, credential := newcomer()
	if !m.accept("", []member.Statement{credential}) || kept() {
		t.Error("a newcomer was not taken, or each one costs a write to disk")
	}
	if err := m.keepRoster(); err != nil || !kept() {
		t.Errorf("the newcomer is not kept: %v", err)
	}
	if _, credential = newcomer(); !m.accept("", []member.Statement{credential}) || kept() {
		t.Error("another newcomer was not taken, or was kept")
	}
	v, err := member.Revoke(m.signer, m.roster.Mesh(), member.Removal{Target: k}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !m.accept("", []member.Statement{{Revocation: v.Bytes()}}) || !kept() {
		t.Error("a revocation is not kept at once")
	}
	if _, err := m.Invite(InviteOptions{}); err != nil || !kept() {
		t.Errorf("what this node does is not kept at once: %v", err)
	}
	if _, credential = newcomer(); !m.accept("", []member.Statement{credential}) || kept() {
		t.Error("a third newcomer was not taken, or was kept")
	}
	if err := m.Close(); err != nil || !kept() {
		t.Errorf("what others told last is not kept on Close: %v", err)
	}
}
