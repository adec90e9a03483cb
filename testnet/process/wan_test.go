package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/wan"
	"github.com/meshproxy/meshproxy/testnet/wan/wantest"
)

// patience bounds every wait.
const patience = 90 * time.Second

// branch is an office at a site of an emulated network.
type branch struct {
	*process.Office
	site *wan.Site
	name string
}

// wanScene is a world on an emulated network: the upstream stands at a site of its
// own, and so does every office. Names of offices are those of their sites.
type wanScene struct {
	*scene
	net      *wan.Network
	internet *wan.Site
}

func newWANScene(t *testing.T, usual wan.Path) *wanScene {
	t.Helper()
	n := wantest.New(t)
	n.SetUsual(usual)
	s := &wanScene{scene: newScene(t), net: n}
	s.internet = s.attach("internet", wan.Setup{})
	s.upstream.Stop() // that of loopback
	at := netip.AddrPortFrom(s.internet.IPv4(), 8080).String()
	var err error
	if s.upstream, err = outside.NewServerAt(outside.Proxy(s.world, s.db), at, s.internet.Listen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.upstream.Stop)
	return s
}

func (s *wanScene) attach(name string, setup wan.Setup) *wan.Site {
	s.t.Helper()
	site, err := s.net.Attach(name, setup)
	if errors.Is(err, wan.ErrUnavailable) {
		s.t.Skip(err)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return site
}

// open starts an office at a site, with the flags and the addresses that an
// operator gets who says nothing.
func (s *wanScene) open(site *wan.Site, o process.Options) *branch {
	s.t.Helper()
	if o.P2P == nil {
		o.P2P = []string{}
	}
	o.Listen = "127.0.0.1:3000"
	o.At = site
	o.Flags = append(o.Flags, "--office", site.Name(), "--no-lan")
	return &branch{s.start(site.Name(), o), site, site.Name()}
}

// join is open for a newcomer without an upstream.
func (s *wanScene) join(site *wan.Site, through *branch, flags ...string) *branch {
	s.t.Helper()
	return s.open(site, process.Options{Token: s.invite(through.Office), Upstream: "off", Flags: flags})
}

// get asks the office for a path, from its own site.
func (b *branch) get(path string) error {
	tr := &http.Transport{DialContext: b.site.DialContext}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL()+path, nil)
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.300s", path, resp.Status, body)
	}
	return err
}

// zip is the path of one of the world's zips.
func (s *wanScene) zip(number int) string {
	s.t.Helper()
	path, err := testnet.FilePath(s.world.Releases()[number].Version, "zip")
	if err != nil {
		s.t.Fatal(err)
	}
	return path
}

// eventually asks until there is no error.
func (s *wanScene) eventually(what string, ask func() error) {
	s.t.Helper()
	err := ask()
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); err = ask() {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatalf("%s: not after %v: %v", what, patience, err)
	}
}

// peers are the other offices as b sees them, by name.
func (b *branch) peers(ctx context.Context) (map[string]node.Peer, error) {
	text, err := b.Run(ctx, "peers", "--json")
	if err != nil {
		return nil, err
	}
	var list []node.Peer
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	out := map[string]node.Peer{}
	for _, p := range list {
		out[p.Office] = p
	}
	return out, nil
}

// sees is an error unless b is connected to each of others, and knows nobody else.
func (s *wanScene) sees(b *branch, others ...*branch) error {
	peers, err := b.peers(s.t.Context())
	if err != nil {
		return err
	}
	for _, o := range others {
		if o != b && !peers[o.name].Connected {
			return fmt.Errorf("%s is not connected to %s: %+v", b.name, o.name, peers)
		}
		delete(peers, o.name)
	}
	if len(peers) > 0 {
		return fmt.Errorf("%s knows more: %+v", b.name, peers)
	}
	return nil
}

// together waits until these are all that each of them knows.
func (s *wanScene) together(all ...*branch) {
	s.t.Helper()
	for _, b := range all {
		s.eventually("together", func() error { return s.sees(b, all...) })
	}
}

// TestJoinAcrossAWAN has offices meet over 50 ms, with jitter, a rate and loss,
// and one that has IPv6 only.
func TestJoinAcrossAWAN(t *testing.T) {
	s := newWANScene(t, wan.Path{Latency: 25 * time.Millisecond, Jitter: 3 * time.Millisecond, Loss: 0.002})
	const rate = 100e6
	a := s.open(s.attach("a", wan.Setup{Rate: rate}), process.Options{})
	for i := range s.world.Releases() {
		if err := a.get(s.zip(i)); err != nil {
			t.Fatal(err)
		}
	}
	asked := s.upstream.Count()
	four := s.join(s.attach("four", wan.Setup{Rate: rate, NoIPv6: true, Private: true}), a)
	six := s.join(s.attach("six", wan.Setup{Rate: rate, NoIPv4: true}), a)
	for _, b := range []*branch{four, six} {
		for i := range s.world.Releases() {
			if err := b.get(s.zip(i)); err != nil {
				t.Errorf("office %s: %v\n%s", b.name, err, b.Log())
			}
		}
		if moved := s.net.Between(a.site, b.site); moved.Bytes < 10_000 {
			t.Errorf("office %s got %d bytes from a", b.name, moved.Bytes)
		}
	}
	if now := s.upstream.Count(); now != asked {
		t.Errorf("%d requests for what the mesh had", now-asked)
	}
	s.together(a, four, six) // four and six through a: they have no address in common
	peers, err := six.peers(t.Context())
	if err != nil || peers["four"].How != "relayed" {
		t.Errorf("an office with IPv6 only sees one with IPv4 only as %+v, %v", peers["four"], err)
	}
	if got := peers["a"].RTT; got < 50*time.Millisecond {
		t.Errorf("round trip to a is said to be %v, want at least 50 ms", got)
	}
}

// TestOfficesBehindNATShare has two offices behind different NATs, one of which is
// of the kind that no hole punching opens, and a third in reach that has nothing.
func TestOfficesBehindNATShare(t *testing.T) {
	s := newWANScene(t, wan.Path{Latency: 10 * time.Millisecond})
	hub := s.open(s.attach("hub", wan.Setup{}), process.Options{Upstream: "off"})
	x := s.open(s.attach("x", wan.Setup{NAT: wan.EasyNAT}), process.Options{Token: s.invite(hub.Office)})
	y := s.join(s.attach("y", wan.Setup{NAT: wan.HardNAT}), hub)
	s.together(hub, x, y)
	if err := x.get(s.zip(0)); err != nil {
		t.Fatal(err)
	}
	if err := y.get(s.zip(0)); err != nil {
		t.Errorf("%v\n%s", err, y.Log())
	}
	for _, pair := range [][2]*branch{{x, y}, {y, x}} {
		peers, err := pair[0].peers(t.Context())
		if err != nil || peers[pair[1].name].How != "relayed" {
			t.Errorf("%s sees %s as %+v, %v", pair[0].name, pair[1].name, peers[pair[1].name], err)
		}
	}
	if n := s.net.Between(x.site, y.site).Bytes + s.net.Between(y.site, x.site).Bytes; n > 0 {
		t.Logf("%d bytes of attempts at a direct way", n)
	}
	// An office ends though who it reaches by a relay is silent, and the relay, too.
	for _, silent := range []*branch{y, hub} {
		if err := silent.Freeze(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := x.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// TestHolePunching has two offices behind NATs that let it be.
func TestHolePunching(t *testing.T) {
	s := newWANScene(t, wan.Path{Latency: 10 * time.Millisecond})
	hub := s.open(s.attach("hub", wan.Setup{}), process.Options{Upstream: "off"})
	x := s.join(s.attach("x", wan.Setup{NAT: wan.EasyNAT}), hub)
	y := s.join(s.attach("y", wan.Setup{NAT: wan.EasyNAT}), hub)
	s.together(hub, x, y)
	s.eventually("a direct way", func() error {
		peers, err := y.peers(t.Context())
		if err == nil && peers["x"].How != "direct" {
			err = fmt.Errorf("y sees x as %+v", peers["x"])
		}
		return err
	})
}

// TestPartition cuts a mesh in two without a word to anybody: packets vanish. On
// both sides an office joins and one is thrown out; then all agree again.
func TestPartition(t *testing.T) {
	s := newWANScene(t, wan.Path{Latency: 10 * time.Millisecond})
	a := s.open(s.attach("a", wan.Setup{}), process.Options{})
	admin, err := a.Invite(t.Context(), "--role", "admin")
	if err != nil {
		t.Fatal(err)
	}
	b := s.join(s.attach("b", wan.Setup{}), a)
	c := s.open(s.attach("c", wan.Setup{}), process.Options{Token: admin, Upstream: "off"})
	d := s.join(s.attach("d", wan.Setup{}), a)
	s.together(a, b, c, d)

	s.net.Part(true, c.site, d.site)
	e := s.join(s.attach("e", wan.Setup{}), a)
	fSite := s.attach("f", wan.Setup{})
	s.net.Part(true, c.site, d.site) // e's site is new
	s.net.Part(true, c.site, d.site, fSite)
	s.net.Cut(c.site, fSite, false)
	s.net.Cut(d.site, fSite, false)
	f := s.join(fSite, c)
	for by, who := range map[*branch]string{a: "b", c: "d"} {
		if _, err := by.Run(t.Context(), "revoke", who); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.get(s.zip(0)); err != nil {
		t.Errorf("apart, with an upstream: %v", err)
	}
	s.eventually("the left side goes on", func() error { return e.get(s.zip(0)) })

	s.net.Part(false, c.site, d.site, fSite)
	start := time.Now()
	s.together(a, c, e, f)
	t.Logf("healed after %v", time.Since(start).Round(time.Millisecond))
	s.eventually("the right side has what the left one has", func() error { return f.get(s.zip(0)) })
	for _, out := range []*branch{b, d} {
		if err := out.get(s.zip(1)); err == nil {
			t.Errorf("%s, which is out, got something from the mesh", out.name)
		}
	}
	if n := strings.Count(a.Log(), "panic"); n > 0 {
		t.Error(a.Log())
	}
}

// TestFrozenThroughARevocation stops an office while another one is thrown out and
// a third joins; thawed, it hears of both.
func TestFrozenThroughARevocation(t *testing.T) {
	s := newWANScene(t, wan.Path{Latency: 10 * time.Millisecond})
	a := s.open(s.attach("a", wan.Setup{}), process.Options{})
	b, c := s.join(s.attach("b", wan.Setup{}), a), s.join(s.attach("c", wan.Setup{}), a)
	s.together(a, b, c)
	if err := c.Freeze(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Run(t.Context(), "revoke", "b"); err != nil {
		t.Fatal(err)
	}
	d := s.join(s.attach("d", wan.Setup{}), a)
	if err := a.get(s.zip(0)); err != nil {
		t.Fatal(err)
	}
	if err := d.get(s.zip(0)); err != nil {
		t.Errorf("with a frozen member: %v\n%s", err, d.Log())
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	s.together(a, c, d)
	s.eventually("the thawed office gets modules", func() error { return c.get(s.zip(0)) })
}

// TestManyOfficesBehindOneAddress has more offices at one address than libp2p
// takes connections from one by default.
func TestManyOfficesBehindOneAddress(t *testing.T) {
	if testing.Short() {
		t.Skip("starts twenty processes")
	}
	s := newWANScene(t, wan.Path{Latency: 5 * time.Millisecond})
	hub := s.open(s.attach("hub", wan.Setup{}), process.Options{})
	site := s.attach("tower", wan.Setup{NAT: wan.EasyNAT})
	const count = 20
	token, err := hub.Invite(t.Context(), "--uses", fmt.Sprint(count))
	if err != nil {
		t.Fatal(err)
	}
	var last *process.Office
	for i := range count {
		last, err = binary.Start(t.Context(), filepath.Join(s.dir, fmt.Sprint("floor", i)), process.Options{
			Token: token, Upstream: "off", SumDB: s.db.Key(), At: site,
			P2P:   []string{"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"},
			Flags: []string{"--office", fmt.Sprint("floor", i), "--no-lan"},
		})
		if err != nil {
			t.Fatalf("office %d of %d: %v", i, count, err)
		}
		t.Cleanup(last.Kill)
	}
	s.eventually("all are connected", func() error {
		st, err := hub.Status(t.Context())
		if err == nil && st.Connected < count {
			err = fmt.Errorf("%d of %d", st.Connected, count)
		}
		return err
	})
	if err := hub.get(s.zip(0)); err != nil {
		t.Fatal(err)
	}
	if err := (&branch{last, site, "last"}).get(s.zip(0)); err != nil {
		t.Errorf("%v\n%s", err, last.Log())
	}
}
