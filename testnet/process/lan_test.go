package process_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// onLAN puts sites on one office network, which ends with the test.
func (s *wanScene) onLAN(sites ...*wan.Site) *wan.LAN {
	s.t.Helper()
	l, err := wan.NewLAN(sites...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return l
}

// search is open for an office that looks for others on its network.
func (s *wanScene) search(site *wan.Site, o process.Options) *branch {
	s.t.Helper()
	o.P2P, o.Listen, o.At = []string{}, "127.0.0.1:3000", site
	o.Flags = append(o.Flags, "--office", site.Name())
	return &branch{s.start(site.Name(), o), site, site.Name()}
}

// TestOfficesFindEachOtherOnALAN: two offices whose addresses are all new to each
// other, since their network was renumbered, meet by multicast; a third joins by it;
// and one of another mesh, on the same network, stays by itself.
func TestOfficesFindEachOtherOnALAN(t *testing.T) {
	s := newWANScene(t, wan.Path{Latency: 10 * time.Millisecond})
	alone := wan.Setup{NoIPv4: true, NoIPv6: true}
	siteA, siteB := s.attach("a", wan.Setup{}), s.attach("b", alone)
	siteC, siteX := s.attach("c", alone), s.attach("x", alone)
	lan := s.onLAN(siteA, siteB, siteC, siteX)
	a := s.search(siteA, process.Options{})
	x := s.search(siteX, process.Options{Upstream: "off"})
	b := s.search(siteB, process.Options{Upstream: "off", Token: s.invite(a.Office)})
	s.together(a, b)
	if err := a.get(s.zip(0)); err != nil {
		t.Fatal(err)
	}
	token := s.invite(a.Office)
	for _, o := range []*branch{a, b} {
		if err := o.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := lan.Renumber(); err != nil {
		t.Fatal(err)
	}
	b = s.search(siteB, process.Options{Upstream: "off"})
	a = s.search(siteA, process.Options{})
	s.together(a, b)
	peers, err := b.peers(t.Context())
	if want := "/ip4/" + lan.Addr(siteA).String() + "/"; err != nil || peers["a"].How != "lan" || !strings.HasPrefix(peers["a"].Addr, want) {
		t.Errorf("b sees a as %+v, %v; want it on the LAN at %s", peers["a"], err, want)
	}
	c := s.search(siteC, process.Options{Upstream: "off", Token: token}) // its addresses are the old ones
	s.together(a, b, c)
	if err := c.get(s.zip(0)); err != nil {
		t.Errorf("%v\n%s", err, c.Log())
	}
	if err := s.sees(x); err != nil {
		t.Errorf("another mesh on the same network: %v", err)
	}
	if err := x.get(s.zip(0)); err == nil {
		t.Error("an office of another mesh on the same network was served")
	}
}

// TestRouterMapsAPort has an office behind a router that speaks UPnP and NAT-PMP. One
// behind a NAT that no hole punching opens reaches it without a relay.
func TestRouterMapsAPort(t *testing.T) {
	s := newWANScene(t, wan.Path{Latency: 10 * time.Millisecond})
	hub := s.open(s.attach("hub", wan.Setup{}), process.Options{Upstream: "off"})
	x := s.open(s.attach("x", wan.Setup{NAT: wan.EasyNAT, PortMap: true}), process.Options{Token: s.invite(hub.Office)})
	y := s.join(s.attach("y", wan.Setup{NAT: wan.HardNAT}), hub)
	outside := "/ip4/" + x.site.IPv4().String() + "/"
	s.eventually("x has a port on its router", func() error {
		st, err := x.Status(t.Context())
		if err == nil && !slices.ContainsFunc(st.P2P, func(a string) bool { return strings.HasPrefix(a, outside) && !strings.Contains(a, "p2p-circuit") }) {
			err = fmt.Errorf("its addresses are %q", st.P2P)
		}
		return err
	})
	s.together(hub, x, y)
	if err := x.get(s.zip(0)); err != nil {
		t.Fatal(err)
	}
	s.eventually("y dials x without a relay", func() error {
		peers, err := y.peers(t.Context())
		if err == nil && (peers["x"].How != "direct" || !strings.HasPrefix(peers["x"].Addr, outside)) {
			err = errors.New("y sees x as " + fmt.Sprintf("%+v", peers["x"]))
		}
		return err
	})
	if err := y.get(s.zip(0)); err != nil {
		t.Errorf("%v\n%s", err, y.Log())
	}
}
