package wan_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshproxy/meshproxy/testnet/wan"
	"github.com/meshproxy/meshproxy/testnet/wan/wantest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func attach(t *testing.T, n *wan.Network, name string, s wan.Setup) *wan.Site {
	t.Helper()
	site, err := n.Attach(name, s)
	if errors.Is(err, wan.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return site
}

// serve answers each connection at a site with f, and returns the address.
func serve(t *testing.T, s *wan.Site, ip netip.Addr, f func(net.Conn)) string {
	t.Helper()
	l, err := s.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// patience bounds every wait.
const patience = 60 * time.Second

func dial(t *testing.T, s *wan.Site, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := s.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// from returns the address that each connection comes from.
func from(c net.Conn) { fmt.Fprint(c, c.RemoteAddr()) }

func answer(t *testing.T, s *wan.Site, addr string) string {
	t.Helper()
	text, err := io.ReadAll(dial(t, s, addr))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSitesReachEachOther by both families, and processes there see the same.
func TestSitesReachEachOther(t *testing.T) {
	n := wantest.New(t)
	a, b := attach(t, n, "a", wan.Setup{}), attach(t, n, "b", wan.Setup{Private: true})
	for _, way := range []struct{ from, to netip.Addr }{{a.IPv4(), b.IPv4()}, {a.IPv6(), b.IPv6()}} {
		got := netip.MustParseAddrPort(answer(t, a, serve(t, b, way.to, from)))
		if got.Addr() != way.from {
			t.Errorf("%s came from %s, want %s", way.to, got.Addr(), way.from)
		}
	}
	cmd := exec.Command("ip", "-4", "-brief", "addr")
	var out strings.Builder
	cmd.Stdout = &out
	if err := b.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), b.IPv4().String()) || strings.Contains(out.String(), a.IPv4().String()) {
		t.Errorf("a process at %s sees %q, %v", b.IPv4(), out.String(), err)
	}
}

func TestOneFamilyOnly(t *testing.T) {
	n := wantest.New(t)
	four, six := attach(t, n, "four", wan.Setup{NoIPv6: true}), attach(t, n, "six", wan.Setup{NoIPv4: true})
	if four.IPv6().IsValid() || six.IPv4().IsValid() {
		t.Errorf("addresses %s and %s are not wanted", four.IPv6(), six.IPv4())
	}
	addr := serve(t, six, six.IPv6(), from)
	if c, err := four.DialContext(t.Context(), "tcp", addr); err == nil {
		c.Close()
		t.Errorf("a site without IPv6 reached %s", addr)
	}
}

// TestLatency sends one byte there and back: nothing that the machine does can
// make that faster than the path.
func TestLatency(t *testing.T) {
	n := wantest.New(t)
	const oneWay = 40 * time.Millisecond
	n.SetUsual(wan.Path{Latency: oneWay, Jitter: 5 * time.Millisecond})
	a, b := attach(t, n, "a", wan.Setup{}), attach(t, n, "b", wan.Setup{})
	c := dial(t, a, serve(t, b, b.IPv4(), func(c net.Conn) { io.Copy(c, c) }))
	fastest := time.Hour
	for range 10 {
		start := time.Now()
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, time.Since(start))
	}
	if fastest < 2*oneWay || fastest > 2*oneWay+5*time.Second {
		t.Errorf("there and back in %v, want %v and what the machine adds", fastest, 2*oneWay)
	}
}

// TestRate sends more than a line's buffer holds.
func TestRate(t *testing.T) {
	n := wantest.New(t)
	const rate, size = 40e6, 2 << 20
	a, b := attach(t, n, "a", wan.Setup{}), attach(t, n, "b", wan.Setup{Rate: rate})
	c := dial(t, a, serve(t, b, b.IPv4(), func(c net.Conn) { c.Write(make([]byte, size)) }))
	start := time.Now()
	if got, err := io.Copy(io.Discard, c); err != nil || got != size {
		t.Fatalf("%d bytes, %v", got, err)
	}
	took := time.Since(start)
	least := time.Duration(float64(size) * 8 / rate * float64(time.Second))
	// The buffer of the sender's kernel may be a little ahead of the line.
	if took < least*9/10 {
		t.Errorf("%d bytes in %v, want at least %v", size, took, least)
	}
	moved := n.Between(b, a)
	if moved.Bytes < size || moved.Bytes > size*3/2 {
		t.Errorf("%d bytes counted for %d", moved.Bytes, size)
	}
}

// datagrams sends some from one site to another, waits until the network has let
// through or dropped each, and returns which came, in their order.
func datagrams(t *testing.T, n *wan.Network, a, b *wan.Site, count int) (order []int) {
	t.Helper()
	in, err := b.ListenPacket("udp", netip.AddrPortFrom(b.IPv4(), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := a.DialContext(t.Context(), "udp", in.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	before := n.Between(a, b)
	for i := range count {
		if _, err := out.Write([]byte{byte(i >> 8), byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	var moved wan.Traffic
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		moved = n.Between(a, b)
		if moved.Packets+moved.Dropped-before.Packets-before.Dropped == int64(count) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d packets sent, counted: %+v", count, moved)
		}
	}
	came := moved.Packets - before.Packets
	if bytes := moved.Bytes - before.Bytes; bytes != came*(20+8+2) { // IP, UDP, data
		t.Errorf("%d bytes counted for %d packets", bytes, came)
	}
	buf := make([]byte, 2)
	for range came {
		if err := in.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := in.ReadFrom(buf); err != nil {
			t.Fatalf("after %d of %d: %v", len(order), came, err)
		}
		order = append(order, int(buf[0])<<8|int(buf[1]))
	}
	return order
}

// sent is below what the kernel holds for a socket that is not read.
const sent = 200

func TestEveryPacketIsCounted(t *testing.T) {
	n := wantest.New(t)
	n.SetUsual(wan.Path{Latency: 5 * time.Millisecond, Jitter: 5 * time.Millisecond})
	a, b := attach(t, n, "a", wan.Setup{}), attach(t, n, "b", wan.Setup{})
	order := datagrams(t, n, a, b, sent)
	if len(order) != sent || !slices.IsSorted(order) {
		t.Errorf("%d of %d came, in order is %v", len(order), sent, slices.IsSorted(order))
	}
	back := n.Between(b, a)
	if back.Packets != 0 || len(n.Traffic()) != 1 {
		t.Errorf("nothing went back, counted: %+v", n.Traffic())
	}
}

func TestLoss(t *testing.T) {
	n := wantest.New(t)
	a, b := attach(t, n, "a", wan.Setup{}), attach(t, n, "b", wan.Setup{})
	n.SetPath(a, b, wan.Path{Loss: 0.3})
	if got := len(datagrams(t, n, a, b, sent)); got < sent/2 || got > sent*9/10 {
		t.Errorf("%d of %d came, 30 %% are to be lost", got, sent)
	}
	if got := len(datagrams(t, n, b, a, sent)); got != sent {
		t.Errorf("%d of %d came back; that path has no loss", got, sent)
	}
}

func TestReorder(t *testing.T) {
	n := wantest.New(t)
	n.SetUsual(wan.Path{Reorder: 0.2})
	a, b := attach(t, n, "a", wan.Setup{}), attach(t, n, "b", wan.Setup{})
	order := datagrams(t, n, a, b, sent)
	if len(order) != sent || slices.IsSorted(order) {
		t.Errorf("%d of %d came, in order is %v", len(order), sent, slices.IsSorted(order))
	}
}

func TestCutsAreForOneDirectionOrBoth(t *testing.T) {
	n := wantest.New(t)
	a, b, c := attach(t, n, "a", wan.Setup{}), attach(t, n, "b", wan.Setup{}), attach(t, n, "c", wan.Setup{})
	pass := func(when string, want map[[2]*wan.Site]bool) {
		t.Helper()
		for way, open := range want {
			if got := len(datagrams(t, n, way[0], way[1], 5)); open != (got == 5) || !open && got > 0 {
				t.Errorf("%s: %d of 5 from %s to %s, open is %v", when, got, way[0].Name(), way[1].Name(), open)
			}
		}
	}
	ab, ba, ac, bc := [2]*wan.Site{a, b}, [2]*wan.Site{b, a}, [2]*wan.Site{a, c}, [2]*wan.Site{b, c}
	n.CutOneWay(a, b, true)
	pass("one way", map[[2]*wan.Site]bool{ab: false, ba: true, ac: true})
	n.Cut(a, b, true)
	n.SetUsual(wan.Path{Latency: time.Millisecond})
	pass("both ways", map[[2]*wan.Site]bool{ab: false, ba: false, ac: true})
	n.Cut(a, b, false)
	n.Part(true, c)
	pass("c apart", map[[2]*wan.Site]bool{ab: true, ba: true, ac: false, bc: false})
	n.Part(false, c)
	pass("healed", map[[2]*wan.Site]bool{ab: true, ac: true, bc: true})
}

// seenAs returns the port from which a site's socket comes at each of two others.
func seenAs(t *testing.T, s *wan.Site, others ...*wan.Site) (ports []uint16) {
	t.Helper()
	out, err := s.ListenPacket("udp4", ":4911")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for _, o := range others {
		in, err := o.ListenPacket("udp4", ":4911")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if _, err := out.WriteTo([]byte{1}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(o.IPv4(), 4911))); err != nil {
			t.Fatal(err)
		}
		if err := in.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, peer, err := in.ReadFrom(make([]byte, 1))
		if err != nil {
			t.Fatal(err)
		}
		at := peer.(*net.UDPAddr).AddrPort()
		if at.Addr() != s.IPv4() {
			t.Errorf("%s comes from %s, want %s", s.Name(), at, s.IPv4())
		}
		ports = append(ports, at.Port())
	}
	return ports
}

// TestNAT has sites behind both kinds: they reach others, nobody reaches them,
// and only the easy kind looks the same to everybody.
func TestNAT(t *testing.T) {
	n := wantest.New(t)
	b, c := attach(t, n, "b", wan.Setup{}), attach(t, n, "c", wan.Setup{})
	easy, hard := attach(t, n, "easy", wan.Setup{NAT: wan.EasyNAT}), attach(t, n, "hard", wan.Setup{NAT: wan.HardNAT})
	if p := seenAs(t, easy, b, c); p[0] != p[1] {
		t.Errorf("behind an easy NAT: ports %v, want one", p)
	}
	if p := seenAs(t, hard, b, c); p[0] == p[1] {
		t.Errorf("behind a hard NAT: ports %v, want two", p)
	}
	for _, s := range []*wan.Site{easy, hard} {
		addr := serve(t, b, b.IPv4(), from)
		if got := answer(t, s, addr); !strings.HasPrefix(got, s.IPv4().String()+":") {
			t.Errorf("%s comes from %s, want %s", s.Name(), got, s.IPv4())
		}
		l, err := s.Listen("tcp4", ":4911")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if c, err := b.DialContext(ctx, "tcp4", netip.AddrPortFrom(s.IPv4(), 4911).String()); err == nil {
			c.Close()
			t.Errorf("%s was reached from outside", s.Name())
		}
		cancel()
	}
}

// TestNothingIsLeft counts the namespaces and devices that this process can see.
func TestNothingIsLeft(t *testing.T) {
	n := wantest.New(t)
	before := openNamespaces(t)
	attach(t, n, "a", wan.Setup{})
	attach(t, n, "b", wan.Setup{NAT: wan.EasyNAT})
	if now := openNamespaces(t); now != before+3 {
		t.Errorf("%d namespaces are held, want 3", now-before)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if now := openNamespaces(t); now != before {
		t.Errorf("%d namespaces are held after Close", now-before)
	}
	if _, err := n.Attach("late", wan.Setup{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a site of a closed network: %v", err)
	}
}

// openNamespaces counts this process's handles of namespaces.
func openNamespaces(t *testing.T) (count int) {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.HasPrefix(target, "net:") {
			count++
		}
	}
	return count
}
