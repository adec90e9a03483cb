package mesh

import (
	"testing"

	"github.com/meshproxy/meshproxy/mesh/member"
)

func TestRotate(t *testing.T) {
	berlin, lisbon, oslo, turin := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo"), node(t, "turin")
	lisbon.join(berlin, InviteOptions{Role: member.Admin})
	oslo.join(berlin)
	turin.join(berlin)
	all := []*testNode{berlin, lisbon, oslo, turin}
	connected(t, all...)
	origin, key := berlin.MeshID(), berlin.session.Load().key
	token, err := berlin.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	oslo.stop() // will hear of it when it is back
	if err := lisbon.Rotate(t.Context(), turin.ID()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the founder follows", func() bool { return berlin.session.Load().key != key })
	oslo.start()
	connected(t, berlin, lisbon, oslo)
	eventually(t, "all have one mesh", func() bool {
		return oslo.session.Load().key == lisbon.session.Load().key && berlin.session.Load().key == lisbon.session.Load().key
	})
	for _, n := range []*testNode{berlin, lisbon, oslo} {
		if n.MeshID() != origin {
			t.Errorf("%s: the mesh is called %s, was %s", n.cfg.Office, n.MeshID(), origin)
		}
		if n.IsMember(turin.ID()) {
			t.Errorf("%s still has turin", n.cfg.Office)
		}
	}
	if turin.session.Load().key != key {
		t.Error("turin has followed, though it was left behind")
	}
	turin.stop() // it would go on with the old mesh
	late := node(t, "vilnius")
	if err := late.Join(t.Context(), token); err == nil {
		t.Error("a token of the old key still lets in")
	}
	late.join(lisbon)
	connected(t, berlin, lisbon, oslo, late)
	if late.MeshID() != origin {
		t.Errorf("a new node calls the mesh %s, not %s", late.MeshID(), origin)
	}
	berlin.restart()
	connected(t, berlin, lisbon, oslo, late)
}
