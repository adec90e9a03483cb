package testnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/ports"
	"github.com/meshproxy/meshproxy/testnet/toxic"
)

// patience bounds every wait of a test; a quiet machine needs milliseconds.
const patience = 60 * time.Second

// Net is a set of offices in this process. It belongs to one test, which it fails
// when an office does not start, does not end, or leaves a goroutine behind. It is
// not safe for use by several goroutines; its offices are.
type Net struct {
	t       testing.TB
	dir     string
	temp    string // for temporary files
	offices []*Office
	links   *toxic.Network // nil where nobody cuts anything
	http    *http.Client
}

// New makes an empty net. When the test ends, every office is stopped, and no
// goroutine of theirs may be left, no file that only a running office needs, and
// none open.
func New(t testing.TB) *Net {
	t.Helper()
	before := goleak.IgnoreCurrent()
	n := &Net{t: t, dir: t.TempDir(), http: &http.Client{Transport: &http.Transport{}}}
	// A short name: those of sockets may not be long, and nets stand within nets.
	var err error
	if n.temp, err = os.MkdirTemp("", netTemp); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(n.temp); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", n.temp)
	t.Cleanup(func() {
		for _, o := range n.offices {
			o.Stop()
		}
		n.http.CloseIdleConnections()
		if err := n.closeLinks(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			verifyNoneLeft(t, before)
			n.verifyNoFiles()
		}
	})
	return n
}

// netTemp begins the names of directories for temporary files.
const netTemp = "net-"

// afterwards are what an office has that does not run.
var afterwards = []string{"badger", "incoming", "lock", "identity.key", "audit.jsonl"}

// verifyNoFiles looks for what offices should have taken away when they ended:
// sockets and temporary files, and files that are open still.
func (n *Net) verifyNoFiles() {
	n.t.Helper()
	left, err := os.ReadDir(n.temp)
	left = slices.DeleteFunc(left, func(e os.DirEntry) bool { // the tests' own, and of nets within
		return strings.HasPrefix(e.Name(), "Test") || strings.HasPrefix(e.Name(), netTemp)
	})
	if err != nil || len(left) > 0 {
		n.t.Errorf("temporary files are left: %v, %v", left, err)
	}
	for _, o := range n.offices {
		left, err := os.ReadDir(o.config.Dir)
		left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return slices.Contains(afterwards, e.Name()) })
		incoming, err2 := os.ReadDir(filepath.Join(o.config.Dir, "incoming"))
		if left = append(left, incoming...); err != nil || err2 != nil || len(left) > 0 {
			n.t.Errorf("office %s leaves files: %v, %v, %v", o.Name, left, err, err2)
		}
	}
	open, err := filepath.Glob("/proc/self/fd/*") // none where there is no /proc
	if err != nil {
		n.t.Error(err)
	}
	for _, fd := range open {
		if file, err := os.Readlink(fd); err == nil && strings.HasPrefix(file, n.dir) {
			n.t.Errorf("%s is open after its office has ended", file)
		}
	}
}

// verifyNoneLeft waits for the goroutines of closed nodes. Most end before Close
// returns; dials that libp2p had under way end with their own timeouts, some
// seconds later.
func verifyNoneLeft(t testing.TB, before goleak.Option) {
	t.Helper()
	end := time.Now().Add(patience)
	err := goleak.Find(before)
	for err != nil && time.Now().Before(end) {
		err = goleak.Find(before)
	}
	if err != nil {
		t.Errorf("goroutines are left: %v", err)
	}
}

// Offices returns every office, running or not, oldest first.
func (n *Net) Offices() []*Office { return append([]*Office(nil), n.offices...) }

// Office is one node and what is needed to start it again.
type Office struct {
	Name string

	net    *Net
	config node.Config
	site   *toxic.Site // nil without links
	node   *node.Node  // nil while stopped
	url    string
	cancel context.CancelFunc
	done   chan error // what Run returned
	// damaged is set while the office may say that it has a zip which it has lost.
	damaged bool
}

// Found starts an office in a mesh of its own. What of the configuration is empty
// gets a value that reaches nothing but loopback: no upstream, no database.
func (n *Net) Found(name string, c node.Config) *Office {
	n.t.Helper()
	return n.start(name, c, "")
}

// Join starts an office that joins the mesh of another one with a token of its.
func (n *Net) Join(name string, through *Office, c node.Config) *Office {
	n.t.Helper()
	return n.start(name, c, through.Invite(node.Invitation{Role: "member", Office: name, TTL: time.Hour, Uses: 1}))
}

// Start founds a mesh with count offices of one configuration, called a, b, c and
// so on, and waits until each is connected to every other.
func (n *Net) Start(count int, c node.Config) []*Office {
	n.t.Helper()
	offices := []*Office{n.Found("a", c)}
	for i := 1; i < count; i++ {
		offices = append(offices, n.Join(string(rune('a'+i)), offices[0], c))
	}
	n.Settle()
	return offices
}

func (n *Net) start(name string, c node.Config, token string) *Office {
	n.t.Helper()
	c.Dir = filepath.Join(n.dir, name)
	c.Office = name
	if c.Listen == "" {
		c.Listen = n.address()
	}
	if c.P2P == nil {
		_, port, _ := net.SplitHostPort(n.address())
		c.P2P = []string{"/ip4/127.0.0.1/tcp/" + port}
	}
	if c.Upstream == "" {
		c.Upstream = "off"
	}
	c.NoLAN = true // mDNS would leave loopback
	// Copies that nobody asked for blur what a scenario counts.
	c.Sharing.Replicas = cmp.Or(c.Sharing.Replicas, 1)
	if c.SumDB == "" {
		c.SumDB = "off"
	}
	if c.Log == nil {
		c.Log = testLog(n.t, name)
	}
	o := &Office{Name: name, net: n, config: c}
	o.attach()
	n.offices = append(n.offices, o)
	o.run(token)
	return o
}

// address is one on loopback where an office can be again after Stop.
func (n *Net) address() string {
	n.t.Helper()
	addr, err := ports.Address()
	if err != nil {
		n.t.Fatal(err)
	}
	return addr
}

// run makes the node and lets it serve.
func (o *Office) run(token string) {
	t := o.net.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nd, err := node.New(ctx, o.config)
	if err != nil {
		t.Fatalf("office %s: %v", o.Name, err)
	}
	if token != "" {
		if _, err := nd.Join(ctx, token); err != nil {
			nd.Close()
			t.Fatalf("office %s: %v", o.Name, err)
		}
	}
	var runCtx context.Context
	runCtx, o.cancel = context.WithCancel(context.Background())
	o.node, o.done = nd, make(chan error, 1)
	go func(done chan error) { done <- nd.Run(runCtx) }(o.done)
	st := o.Status()
	o.url = st.URL
	o.remember(st)
}

// remember keeps the chosen ports, so that a restarted office is where it was.
func (o *Office) remember(st *node.Status) {
	if _, hostPort, ok := strings.Cut(st.URL, "://"); ok {
		if _, _, err := net.SplitHostPort(hostPort); err == nil {
			o.config.Listen = hostPort
		}
	}
	if o.site != nil {
		return // which says where it listens
	}
	var addrs []string
	for _, a := range st.P2P {
		transport, _, _ := strings.Cut(a, "/p2p/")
		addrs = append(addrs, transport)
	}
	if len(addrs) > 0 {
		o.config.P2P = addrs
	}
}

// Stop ends the office, if it runs, the way a signal does.
func (o *Office) Stop() {
	o.net.t.Helper()
	if o.node == nil {
		return
	}
	o.cancel()
	err := <-o.done
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err = errors.Join(err, o.node.Close()); err != nil {
		o.net.t.Errorf("office %s: stop: %v", o.Name, err)
	}
	o.node = nil
}

// Restart starts a stopped office again on its data and its addresses.
func (o *Office) Restart() {
	o.net.t.Helper()
	o.Stop()
	o.run("")
}

// URL is what GOPROXY is set to.
func (o *Office) URL() string { return o.url }

// Running reports whether the office was started and not stopped.
func (o *Office) Running() bool { return o.node != nil }

// Node is the running node.
func (o *Office) Node() *node.Node { return o.node }

// Status is the office at a glance.
func (o *Office) Status() *node.Status {
	o.net.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := o.node.Status(ctx)
	if err != nil {
		o.net.t.Fatalf("office %s: status: %v", o.Name, err)
	}
	return st
}

// Served returns how many answers and bytes came from sources whose name begins
// with prefix: "store", "peer", "upstream".
func (o *Office) Served(prefix string) (answers uint64, bytes int64) {
	o.net.t.Helper()
	for _, s := range o.Status().Served {
		if strings.HasPrefix(s.Source, prefix) {
			answers += s.Answers
			bytes += s.Bytes
		}
	}
	return answers, bytes
}

// Invite makes a token.
func (o *Office) Invite(inv node.Invitation) string {
	o.net.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	token, err := o.node.Invite(ctx, inv)
	if err != nil {
		o.net.t.Fatalf("office %s: invite: %v", o.Name, err)
	}
	return token
}

// Settle waits until every running office is connected to every other.
func (n *Net) Settle() {
	n.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		missing := n.apart()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("offices still apart after %v: %s", patience, missing)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// apart names an office that is not connected to all others, or "".
func (n *Net) apart() string {
	running := 0
	for _, o := range n.offices {
		if o.Running() {
			running++
		}
	}
	for _, o := range n.offices {
		if !o.Running() {
			continue
		}
		if st := o.Status(); st.Connected < running-1 {
			return fmt.Sprintf("%s is connected to %d of %d", o.Name, st.Connected, running-1)
		}
	}
	return ""
}

// testLog writes a node's log to the test's, from the level that MESHPROXY_LOG
// names; the default is what an operator must hear.
func testLog(t testing.TB, office string) *slog.Logger {
	level := slog.LevelError
	if err := level.UnmarshalText([]byte(os.Getenv("MESHPROXY_LOG"))); err != nil {
		level = slog.LevelError
	}
	h := slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})
	return slog.New(h).With("office", office)
}
