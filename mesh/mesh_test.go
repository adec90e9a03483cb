package mesh

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/meshproxy/meshproxy/verify"
)

func TestMain(m *testing.M) {
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
