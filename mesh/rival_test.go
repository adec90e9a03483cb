package mesh

import (
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// divided makes a mesh of two sides that do not reach each other: a, an admin, with c
// on one, and b, an admin, with d on the other. Another member is away.
func divided(t *testing.T) (a, b, c, d, away *testNode) {
	t.Helper()
	a, b, c, d, away = node(t, "a"), node(t, "b"), node(t, "c"), node(t, "d"), node(t, "away")
	b.join(a, InviteOptions{Role: member.Admin})
	for _, n := range []*testNode{c, d, away} {
		n.join(a)
	}
	connected(t, a, b, c, d, away)
	away.stop()
	separate([]*testNode{a, c}, []*testNode{b, d})
	return a, b, c, d, away
}

func (n *testNode) rotate(without ...peer.ID) {
	n.t.Helper()
	if err := n.Rotate(n.t.Context(), without...); err != nil {
		n.t.Fatal(err)
	}
}

func sameKey(nodes ...*testNode) func() bool {
	return func() bool {
		for _, n := range nodes {
			if n.session.Load().key != nodes[0].session.Load().key {
				return false
			}
		}
		return true
	}
}

// TestRotatedOnBothSides has both sides of a partition rotate the mesh key, one of
// them without a member: all meet under one key, and who was left out stays out.
func TestRotatedOnBothSides(t *testing.T) {
	for name, winner := range map[string]int{"the one without a member counts": 0, "the other one counts": 1} {
		t.Run(name, func(t *testing.T) {
			a, b, c, d, out := divided(t)
			rotations := []func(){func() { a.rotate(out.ID()) }, func() { b.rotate() }}
			rotations[winner]()
			for first := time.Now().Unix(); time.Now().Unix() == first; { // rotations have times in seconds
				time.Sleep(10 * time.Millisecond)
			}
			rotations[1-winner]()
			eventually(t, "c follows a", sameKey(a, c))
			eventually(t, "d follows b", sameKey(b, d))
			want := []*testNode{a, b}[winner].session.Load().key
			heal([]*testNode{a, c}, []*testNode{b, d})
			eventually(t, "all have one key", sameKey(a, b, c, d))
			if a.session.Load().key != want {
				t.Error("the key is not that of the first rotation")
			}
			connected(t, a, b, c, d)
			for _, n := range []*testNode{a, b, c, d} {
				eventually(t, n.cfg.Office+" keeps out who was left out", func() bool { return !n.IsMember(out.ID()) })
				if alarms := n.Alarms(); len(alarms) > 0 {
					t.Errorf("%s: %v", n.cfg.Office, alarms)
				}
			}
			c.restart()
			connected(t, a, b, c, d)
		})
	}
}

// TestRevokedOnTheSideThatLoses: whichever rotation counts, a revocation that one side
// made since is not forgotten.
func TestRevokedOnTheSideThatLoses(t *testing.T) {
	a, b, c, d, _ := divided(t)
	a.rotate()
	b.rotate()
	eventually(t, "c follows a", sameKey(a, c))
	eventually(t, "d follows b", sameKey(b, d))
	for by, who := range map[*testNode]*testNode{a: c, b: d} {
		if _, err := by.Revoke(who.ID().String(), "closed"); err != nil {
			t.Fatal(err)
		}
	}
	heal([]*testNode{a, c}, []*testNode{b, d})
	eventually(t, "both have one key", sameKey(a, b))
	connected(t, a, b)
	for _, n := range []*testNode{a, b} {
		for _, gone := range []*testNode{c, d} {
			eventually(t, n.cfg.Office+" has "+gone.cfg.Office+" out", func() bool { return !n.IsMember(gone.ID()) })
		}
	}
}

// TestRotatedAgainstEachOther: of two admins that leave each other behind, neither
// follows, and both are told.
func TestRotatedAgainstEachOther(t *testing.T) {
	a, b, c, d, _ := divided(t)
	a.rotate(b.ID())
	b.rotate(a.ID())
	eventually(t, "c follows a", sameKey(a, c))
	eventually(t, "d follows b", sameKey(b, d))
	heal([]*testNode{a, c}, []*testNode{b, d})
	for n, other := range map[*testNode]string{c: "b", d: "a"} {
		eventually(t, n.cfg.Office+" raises an alarm", func() bool { return len(n.Alarms()) == 1 })
		if alarm := n.Alarms()[0]; !strings.Contains(alarm, "rotated twice") || !strings.Contains(alarm, "leave the mesh and join anew") {
			t.Errorf("%s says nothing of use about %s: %s", n.cfg.Office, other, alarm)
		}
	}
	if c.session.Load().key != a.session.Load().key || d.session.Load().key != b.session.Load().key {
		t.Error("a member has changed sides")
	}
}
