package mesh

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/meshproxy/meshproxy/verify"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(m.Run()) // libp2p takes its time to give up a hundred dials
	}
	goleak.VerifyTestMain(m)
}

// waitTime is how long a test waits for what should take a second.
const waitTime = 30 * time.Second

// testNode is a node whose Run a test can end and begin again.
type testNode struct {
	*Mesh
	t    testing.TB
	cfg  Config
	stop func()
}

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// node starts a node on loopback that runs until the test ends.
func node(t testing.TB, office string, change ...func(*Config)) *testNode {
	t.Helper()
	cfg := Config{
		Key: newKey(t), Office: office, State: &memoryState{}, NoLAN: true,
		Listen: []string{"/ip4/127.0.0.1/tcp/0"},
	}
	if os.Getenv("MESH_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", office)
	}
	for _, f := range change {
		f(&cfg)
	}
	n := &testNode{t: t, cfg: cfg}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *testNode) start() {
	n.t.Helper()
	m, err := New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	n.Mesh = m
	n.cfg.Listen = nil // over restarts, where it was first
	for _, a := range m.host.Network().ListenAddresses() {
		n.cfg.Listen = append(n.cfg.Listen, a.String())
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run of %s: %v", n.cfg.Office, err)
		}
	})
}

// restart ends the node and starts it with the state that it kept.
func (n *testNode) restart() {
	n.stop()
	n.start()
}

// join makes n a member of the mesh of by.
func (n *testNode) join(by *testNode, o ...InviteOptions) {
	n.t.Helper()
	token, err := by.Invite(append(o, InviteOptions{})[0])
	if err != nil {
		n.t.Fatal(err)
	}
	n.joinWith(token)
}

func (n *testNode) joinWith(token string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	if err := n.Join(ctx, token); err != nil {
		n.t.Fatalf("%s joins: %v", n.cfg.Office, err)
	}
}

// eventually waits for what must come to be.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(waitTime)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, waitTime)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// connected waits until all nodes are members to each other and connected.
func connected(t testing.TB, nodes ...*testNode) {
	t.Helper()
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			eventually(t, a.cfg.Office+" is connected with "+b.cfg.Office, func() bool {
				return a.IsMember(b.ID()) && a.host.Network().Connectedness(b.ID()) == network.Connected
			})
		}
	}
}

func TestJoin(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	if berlin.MeshID() == lisbon.MeshID() {
		t.Fatal("two nodes founded one mesh")
	}
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	if berlin.MeshID() != lisbon.MeshID() {
		t.Error("they are not in the same mesh")
	}
	if got := berlin.OfficeOf(lisbon.ID()); got != "lisbon" {
		t.Errorf("office of the new node is %q", got)
	}
	lisbon.restart()
	connected(t, berlin, lisbon)
	berlin.restart()
	connected(t, berlin, lisbon)
}

func TestJoinThroughOtherMember(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	token, err := berlin.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	berlin.stop()
	oslo.joinWith(token)
	connected(t, lisbon, oslo)
	berlin.start()
	connected(t, berlin, lisbon, oslo)
}

func TestProvide(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	lisbon.join(berlin)
	oslo.join(berlin)
	connected(t, berlin, lisbon, oslo)
	root := verify.DigestOf([]byte("a listing"))
	if err := lisbon.Announce(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*testNode{berlin, oslo} {
		eventually(t, n.cfg.Office+" finds the provider", func() bool { return finds(n, root, lisbon.ID()) })
	}
}

// TestAnnouncedBeforeJoining has what a node announced alone found by the mesh
// that it joins later, and again after the mesh key was rotated.
func TestAnnouncedBeforeJoining(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	root := verify.DigestOf([]byte("a listing"))
	if err := lisbon.Announce(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	eventually(t, "berlin finds the provider", func() bool { return finds(berlin, root, lisbon.ID()) })
	if err := berlin.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "lisbon follows", func() bool { return lisbon.session.Load().key == berlin.session.Load().key })
	eventually(t, "berlin finds it again", func() bool { return finds(berlin, root, lisbon.ID()) })
}

func finds(n *testNode, root verify.Digest, want peer.ID) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for ai := range n.FindProvidersAsync(ctx, root.CID(), 3) {
		if ai.ID == want {
			return true
		}
	}
	return false
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	berlin := node(t, "berlin", func(c *Config) { c.Metrics = registry })
	node(t, "lisbon").join(berlin)
	got, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range got {
		if len(f.Metric) == 1 && f.Metric[0].Gauge != nil {
			values[f.GetName()] = f.Metric[0].Gauge.GetValue()
		}
	}
	if values["meshproxy_mesh_members"] != 2 || values["meshproxy_mesh_statements"] < 3 {
		t.Errorf("metrics say %v", values)
	}
}

// TestMovedAway has two nodes find each other again though both have moved.
func TestMovedAway(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	lisbon.join(berlin)
	oslo.join(berlin)
	connected(t, berlin, lisbon, oslo)
	for _, n := range []*testNode{berlin, lisbon} {
		n.stop()
		n.cfg.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	berlin.start()
	lisbon.start()
	connected(t, berlin, lisbon, oslo)
}

// TestStaticPeer has a node that was away for long find its mesh by an address
// that its operator gives it, though it knows none of those who are there.
func TestStaticPeer(t *testing.T) {
	berlin, lisbon, oslo := node(t, "berlin"), node(t, "lisbon"), node(t, "oslo")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	lisbon.stop()
	oslo.join(berlin)
	connected(t, berlin, oslo)
	berlin.stop()
	lisbon.cfg.Peers = []string{oslo.Addrs()[0].String() + "/p2p/" + oslo.ID().String()}
	lisbon.start()
	connected(t, lisbon, oslo)
}

func TestLoadOrCreateKey(t *testing.T) {
	dir := t.TempDir()
	key, err := LoadOrCreateKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(dir)
	if err != nil || !again.Equals(key) {
		t.Errorf("the key is another one the next time: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file has mode %v: %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(dir); err == nil {
		t.Error("a damaged key is replaced, and the node forgotten")
	}
}

// A key that is missing must not be replaced: the right one would be refused afterwards.
func TestMissingKeyIsNotReplaced(t *testing.T) {
	state, dir := &memoryState{}, t.TempDir()
	if _, err := LoadKey(dir, state); err != nil {
		t.Fatalf("a new node gets no key: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, keyFile)); err != nil {
		t.Fatal(err)
	}
	berlin := node(t, "berlin", func(c *Config) { c.State = state })
	text, err := berlin.ExportKeys("")
	if err != nil {
		t.Fatal(err)
	}
	berlin.stop()
	if _, err := LoadKey(dir, state); err == nil {
		t.Error("another key is made for the data of a node")
	}
	if err := ImportKeys(dir, state, text, "", false); err != nil {
		t.Errorf("the key cannot be put back: %v", err)
	}
	if key, err := LoadKey(dir, state); err != nil || !key.Equals(berlin.cfg.Key) {
		t.Errorf("after that: %v", err)
	}
}

func TestKeysExport(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	for _, passphrase := range []string{"", "correct horse"} {
		eventually(t, "berlin knows where lisbon is", func() bool { return len(berlin.peers.addrs(lisbon.ID())) > 0 })
		text, err := berlin.ExportKeys(passphrase)
		if err != nil {
			t.Fatal(err)
		}
		dir, state := t.TempDir(), &memoryState{}
		if passphrase != "" {
			if err := ImportKeys(dir, state, text, "wrong", false); !errors.Is(err, ErrPassphrase) {
				t.Errorf("with a wrong passphrase: %v", err)
			}
		}
		if err := ImportKeys(dir, state, text, passphrase, false); err != nil {
			t.Fatal(err)
		}
		key, err := LoadOrCreateKey(dir)
		if err != nil || !key.Equals(berlin.cfg.Key) {
			t.Fatalf("another key comes back: %v", err)
		}
		if passphrase == "" {
			if err := ImportKeys(dir, state, text, "", false); err != nil {
				t.Errorf("a second time: %v", err)
			}
			other := t.TempDir()
			if _, err := LoadOrCreateKey(other); err != nil {
				t.Fatal(err)
			}
			if err := ImportKeys(other, state, text, "", false); !errors.Is(err, ErrOtherNode) {
				t.Errorf("over another node's key: %v", err)
			}
		}
		berlin.stop() // the machine burns down
		spare := node(t, "berlin", func(c *Config) { c.Key, c.State = key, state })
		connected(t, spare, lisbon)
		spare.invite(InviteOptions{}) // it is the founder
		spare.stop()
		berlin.start()
	}
	if err := ImportKeys(t.TempDir(), &memoryState{}, []byte("x"), "", false); !errors.Is(err, ErrExport) {
		t.Errorf("what is no export: %v", err)
	}
}
