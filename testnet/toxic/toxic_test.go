//go:build unix

package toxic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patience bounds every wait.
const patience = time.Minute

// echo stands in for an office: it listens at a site's port and sends back what it
// gets.
func echo(t *testing.T, s *Site) {
	t.Helper()
	// The port is shared by who listens there and who dials from there, as libp2p does.
	lc := net.ListenConfig{Control: reusePort}
	l, err := lc.Listen(t.Context(), "tcp", fmt.Sprint("127.0.0.1:", s.port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // until the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if err2 := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); err2 != nil {
		return err2
	}
	return err
}

// dial opens a connection from one site to another, which takes a while when the one
// before is not quite gone.
func dial(t *testing.T, from, to *Site) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: from.port}, Control: reusePort}
	c, err := d.DialContext(t.Context(), "tcp", to.listener.Addr().String())
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
		c, err = d.DialContext(t.Context(), "tcp", to.listener.Addr().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// said sends a text and reports whether it comes back within a time.
func said(t *testing.T, c net.Conn, text string, within time.Duration) error {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		t.Fatalf("got %q, want %q", got, text)
	}
	return nil
}

func newTest(t *testing.T, p Path, rate int64) (n *Network, a, b *Site) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	n = New(p)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		var left error
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if left = goleak.Find(before); left == nil {
				return
			}
		}
		t.Error(left)
	})
	var err error
	if a, err = n.Attach("a", rate); err == nil {
		b, err = n.Attach("b", 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	echo(t, a)
	echo(t, b)
	return n, a, b
}

func TestLinkIsLateAndCounted(t *testing.T) {
	const way = 30 * time.Millisecond
	n, a, b := newTest(t, Path{Latency: way}, 0)
	c := dial(t, a, b)
	start := time.Now()
	if err := said(t, c, "hello", patience); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 2*way {
		t.Errorf("there and back took %v, want at least %v", took, 2*way)
	}
	got := n.Traffic()
	if len(got) != 2 || got[0] != (Traffic{a, b, 5, 1}) || got[1] != (Traffic{b, a, 5, 0}) {
		t.Errorf("counted %+v", got)
	}
}

func TestLinkIsNarrow(t *testing.T) {
	_, a, b := newTest(t, Path{}, 8_000_000)
	c := dial(t, a, b)
	text := strings.Repeat("0123456789", 50_000)
	start := time.Now()
	if err := said(t, c, text, patience); err != nil {
		t.Fatal(err)
	}
	// Half a second at the rate; a tenth of it goes at once, as the first part does.
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("500 KB at 1 MB/s took %v", took)
	}
}

// TestLineIsSharedByAll has one site talk to two others at the same time: together they
// get what its line carries, and not each of them all of it.
func TestLineIsSharedByAll(t *testing.T) {
	n, a, b := newTest(t, Path{}, 8_000_000)
	c, err := n.Attach("c", 0)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, c)
	text := strings.Repeat("0123456789", 25_000)
	start := time.Now()
	done := make(chan error)
	for _, conn := range []net.Conn{dial(t, a, b), dial(t, a, c)} {
		go func() { done <- said(t, conn, text, patience) }()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("twice 250 KB over a line of 1 MB/s took %v", took)
	}
}

// TestPathsAndRatesChange while connections are there, which lose nothing by it.
func TestPathsAndRatesChange(t *testing.T) {
	n, a, b := newTest(t, Path{Latency: time.Millisecond, Jitter: time.Millisecond}, 0)
	c, other := dial(t, a, b), dial(t, b, a)
	for _, way := range []time.Duration{0, 40 * time.Millisecond, 10 * time.Millisecond} {
		if err := errors.Join(n.SetPath(a, b, Path{Latency: way}), n.SetPath(b, a, Path{Latency: 2 * way})); err != nil {
			t.Fatal(err)
		}
		for _, conn := range []net.Conn{c, other} {
			start := time.Now()
			if err := said(t, conn, "hello", patience); err != nil {
				t.Fatalf("%v away: %v", way, err)
			}
			if took := time.Since(start); took < 3*way {
				t.Errorf("there in %v and back in twice that took %v", way, took)
			}
		}
	}
	b.SetRate(8_000_000)
	start := time.Now()
	if err := said(t, c, strings.Repeat("0123456789", 50_000), patience); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("500 KB at 1 MB/s took %v", took)
	}
	b.SetRate(0)
	if err := said(t, c, "hello again", patience); err != nil {
		t.Error(err)
	}
}

// TestCut cuts each direction for itself: what is said then does not come back, and
// after healing a new connection works, while the old one has ended.
func TestCut(t *testing.T) {
	for name, cut := range map[string]func(n *Network, a, b *Site, cut bool) error{
		"both ways": (*Network).Cut,
		"forth":     (*Network).CutOneWay,
		"back":      func(n *Network, a, b *Site, cut bool) error { return n.CutOneWay(b, a, cut) },
	} {
		t.Run(name, func(t *testing.T) {
			n, a, b := newTest(t, Path{Latency: time.Millisecond}, 0)
			c := dial(t, a, b)
			if err := said(t, c, "hello", patience); err != nil {
				t.Fatal(err)
			}
			if err := cut(n, a, b, true); err != nil {
				t.Fatal(err)
			}
			for what, c := range map[string]net.Conn{"an old connection": c, "a new one": dial(t, b, a)} {
				if err := said(t, c, "lost", 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s across the cut: %v", what, err)
				}
			}
			if err := cut(n, a, b, false); err != nil {
				t.Fatal(err)
			}
			if err := said(t, c, "late", patience); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection that lost something goes on: %v", err)
			}
			if err := said(t, dial(t, a, b), "hello again", patience); err != nil {
				t.Errorf("after healing: %v", err)
			}
		})
	}
}
