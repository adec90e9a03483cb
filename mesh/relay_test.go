package mesh

import (
	"errors"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// TestRelay has two nodes that nobody can dial meet through a third.
func TestRelay(t *testing.T) {
	unreachable := func(c *Config) { c.Listen = []string{}; c.BehindNAT = true }
	hub, a, b := node(t, "hub"), node(t, "branch a", unreachable), node(t, "branch b", unreachable)
	a.join(hub)
	b.join(hub)
	connected(t, hub, a, b)
	b.Host().SetStreamHandler("/meshproxy/echo/1", func(s network.Stream) {
		_, _ = io.Copy(s, s)
		s.Close()
	})
	s, err := a.Host().NewStream(t.Context(), b.ID(), "/meshproxy/echo/1")
	if err != nil {
		t.Fatal(err)
	}
	if wayOf(s.Conn()) != Relayed {
		t.Errorf("connected by %s, want a relay", wayOf(s.Conn()))
	}
	const size = 4 << 20 // libp2p's own relays stop at 128 KiB
	go func() {
		_, _ = s.Write(make([]byte, size))
		_ = s.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, s)
	if err != nil || n != size {
		t.Errorf("%d bytes came back of %d: %v", n, size, err)
	}
	for _, p := range a.Peers() {
		if p.Peer == b.ID() && p.Way != Relayed {
			t.Errorf("status says %q", p.Way)
		}
	}
}

// TestNoHoleWithoutAnAddress: a node that nobody ever told how it looks from outside
// says so at once rather than wait for ever, which would keep it from ending.
func TestNoHoleWithoutAnAddress(t *testing.T) {
	a, b := node(t, "a"), node(t, "b")
	b.join(a)
	connected(t, a, b)
	if err := a.puncher.DirectConnect(b.ID()); !errors.Is(err, errNoPublicAddr) {
		t.Errorf("DirectConnect: %v, want %v", err, errNoPublicAddr)
	}
}

// TestRelaysAreNotDialledForOthers: a way through a relay is tried while the relay is
// connected, and only then.
func TestRelaysAreNotDialledForOthers(t *testing.T) {
	a, b := node(t, "a"), node(t, "b")
	b.join(a)
	connected(t, a, b)
	away, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		addr string
		want bool
	}{
		"direct":                        {"/ip4/192.0.2.1/tcp/4911", true},
		"through a connected member":    {"/ip4/192.0.2.1/tcp/4911/p2p/" + b.ID().String() + "/p2p-circuit", true},
		"the same by its name alone":    {"/p2p/" + b.ID().String() + "/p2p-circuit/p2p/" + away.String(), true},
		"through one that is not there": {"/ip4/192.0.2.1/tcp/4911/p2p/" + away.String() + "/p2p-circuit", false},
		"to a member, through nobody":   {"/p2p-circuit/p2p/" + b.ID().String(), false},
	}
	for name, c := range cases {
		if got := a.gate.InterceptAddrDial(away, ma.StringCast(c.addr)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
