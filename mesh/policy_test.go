package mesh

import (
	"context"
	"errors"
	"testing"

	"github.com/meshproxy/meshproxy/mesh/member"
)

func (n *testNode) policy() string {
	if p := n.Policy(); p != nil {
		return string(p.Document)
	}
	return ""
}

// TestPolicySpreads publishes at one member and wants it at all, also at one that
// was restarted, after its author was revoked, and after the mesh key was rotated.
func TestPolicySpreads(t *testing.T) {
	a, b, c := node(t, "a"), node(t, "b"), node(t, "c")
	b.join(a, InviteOptions{Role: member.Admin})
	c.join(a)
	connected(t, a, b, c)
	have := func(want string, nodes ...*testNode) {
		t.Helper()
		for _, n := range nodes {
			eventually(t, "policy "+want+" at "+n.Office(), func() bool { return n.policy() == want })
		}
	}
	if _, err := c.PublishPolicy([]byte("x")); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("a plain member publishes: error %v, want %v", err, ErrNotAdmin)
	}
	for _, p := range []struct {
		by   *testNode
		text string
	}{{a, "one"}, {b, "two"}} {
		if _, err := p.by.PublishPolicy([]byte(p.text)); err != nil {
			t.Fatal(err)
		}
		have(p.text, a, b, c)
	}
	c.restart()
	have("two", c)
	connected(t, a, b, c)
	if _, err := a.Revoke(b.ID().String(), "test"); err != nil {
		t.Fatal(err)
	}
	have("two", a, c)
	if by := a.Policy().By.Peer(); by != a.ID() {
		t.Errorf("the policy is still that of %s, who is out", by)
	}
	if err := a.Rotate(context.Background()); err != nil {
		t.Fatal(err)
	}
	have("two", a, c)
}
