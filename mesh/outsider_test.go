package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-msgio"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// outsider is a plain libp2p host that keeps to no rule of ours.
func outsider(t testing.TB, key crypto.PrivKey) host.Host {
	t.Helper()
	h, err := libp2p.New(
		libp2p.Identity(key), libp2p.NoListenAddrs, libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableRelay(), libp2p.DisableMetrics(),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func dial(t testing.TB, h host.Host, n *testNode) {
	t.Helper()
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: n.ID(), Addrs: n.host.Network().ListenAddresses()}); err != nil {
		t.Fatal(err)
	}
}

// ask opens a protocol, sends msg, and returns what comes back.
func ask(t testing.TB, h host.Host, n *testNode, id protocol.ID, msg []byte) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTime)
	defer cancel()
	s, err := h.NewStream(ctx, n.ID(), id)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	_ = s.SetDeadline(time.Now().Add(waitTime))
	if err := msgio.NewVarintWriter(s).WriteMsg(msg); err != nil {
		return nil, err
	}
	return msgio.NewVarintReaderSize(s, maxReply).ReadMsg()
}

func TestOutsiderOpensNothing(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	berlin.Host().SetStreamHandler("/meshproxy/secret/1", func(s network.Stream) {
		_, _ = s.Write([]byte("the secret"))
		s.Close()
	})
	h := outsider(t, newKey(t))
	dial(t, h, berlin)
	session := berlin.session.Load()
	open := map[protocol.ID]bool{
		identify.ID: true, identify.IDPush: true,
		session.protocol(helloID): true, session.protocol(joinID): true,
	}
	shut := 0
	for _, id := range berlin.host.Mux().Protocols() {
		if open[id] {
			continue
		}
		shut++
		s, err := h.NewStream(t.Context(), berlin.ID(), id)
		if err != nil {
			continue
		}
		_ = s.SetDeadline(time.Now().Add(waitTime))
		_, _ = s.Write([]byte{0})
		if got, err := io.ReadAll(s); err == nil || len(got) > 0 {
			t.Errorf("%s answers an outsider with %q, %v", id, got, err)
		}
		s.Reset()
	}
	if shut < 6 { // sync, ping, moved, kad, relay, secret
		t.Errorf("only %d protocols are for members", shut)
	}
	s, err := lisbon.Host().NewStream(t.Context(), berlin.ID(), "/meshproxy/secret/1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "the secret" {
		t.Errorf("a member gets %q, %v", got, err)
	}
}

// TestMemberDoesNotSpeakToOutsiders has an outsider that serves what members ask
// each other.
func TestMemberDoesNotSpeakToOutsiders(t *testing.T) {
	berlin := node(t, "berlin")
	h := outsider(t, newKey(t))
	asked := make(chan protocol.ID, 100)
	for _, id := range berlin.host.Mux().Protocols() {
		if id == identify.ID || id == identify.IDPush {
			continue
		}
		h.SetStreamHandler(id, func(s network.Stream) {
			asked <- id
			s.Reset()
		})
	}
	dial(t, h, berlin)
	eventually(t, "the connection is identified", func() bool {
		ps, _ := berlin.host.Peerstore().GetProtocols(h.ID())
		return len(ps) > 0
	})
	if _, err := berlin.host.NewStream(t.Context(), h.ID(), berlin.session.Load().protocol(pingID)); !errors.Is(err, errStranger) {
		t.Errorf("a stream to an outsider: %v", err)
	}
	if berlin.session.Load().dht.RoutingTable().Size() != 0 {
		t.Error("the outsider is in the DHT's routing table")
	}
	select {
	case id := <-asked:
		t.Errorf("the outsider was asked %s", id)
	default:
	}
}

func TestHellosThatAreRefused(t *testing.T) {
	berlin, lisbon, other := node(t, "berlin"), node(t, "lisbon"), node(t, "other mesh")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	hello := berlin.session.Load().protocol(helloID)
	encodeHello := func(s ...member.Statement) []byte {
		b, err := encMode.Marshal(helloOpen{s})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	expiredKey, forgedKey := newKey(t), newKey(t)
	issue := func(by *testNode, key crypto.PrivKey, g func(*member.Grant)) []byte {
		s, err := member.NewSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		grant := by.grantNode(s.Public, member.Member, "x", time.Now())
		g(&grant)
		c, err := member.Issue(by.own(), by.signer, grant)
		if err != nil {
			t.Fatal(err)
		}
		return c.Bytes()
	}
	expired := issue(berlin, expiredKey, func(g *member.Grant) { g.Issued -= 500; g.Expires = g.Issued + 60 })
	foreign := issue(other, forgedKey, func(*member.Grant) {})
	early := issue(berlin, expiredKey, func(g *member.Grant) { g.Issued += 7200; g.Expires += 7200 })
	lisbonSelf, _ := berlin.View().Member(lisbon.ID())
	for name, c := range map[string]struct {
		key crypto.PrivKey
		msg []byte
	}{
		"nothing":                      {newKey(t), nil},
		"garbage":                      {newKey(t), []byte("hello there")},
		"no statement":                 {newKey(t), encodeHello()},
		"the credential of a member":   {newKey(t), encodeHello(member.Statement{Credential: lisbonSelf.Credential.Bytes()})},
		"a credential of another mesh": {forgedKey, encodeHello(member.Statement{Credential: foreign})},
		"an expired credential":        {expiredKey, encodeHello(member.Statement{Credential: expired})},
		"one for later":                {expiredKey, encodeHello(member.Statement{Credential: early})},
		"more than a hello can be":     {newKey(t), make([]byte, maxHello+1)},
	} {
		t.Run(name, func(t *testing.T) {
			h := outsider(t, c.key)
			dial(t, h, berlin)
			before := berlin.View().Len()
			b, err := ask(t, h, berlin, hello, c.msg)
			var reply helloReply
			if err == nil {
				err = decodeMessage(b, &reply)
			}
			if err == nil && (reply.Status == statusOK || len(reply.Statements) > 0) {
				t.Errorf("it is answered with status %d and %d statements", reply.Status, len(reply.Statements))
			}
			if berlin.IsMember(h.ID()) || berlin.View().Len() != before {
				t.Error("it is a member now")
			}
		})
	}
	connected(t, berlin, lisbon)
}

func TestReplayedJoin(t *testing.T) {
	berlin := node(t, "berlin")
	token, err := member.ParseToken(berlin.invite(InviteOptions{Uses: 5}))
	if err != nil {
		t.Fatal(err)
	}
	// What a member sees of a join: the links, and a grant for the joining node.
	victim, err := member.NewSigner(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	seen, err := member.SignJoin(token.Bearer, token.Invitation.Mesh(), berlin.grantNode(victim.Public, member.Member, "x", now))
	if err != nil {
		t.Fatal(err)
	}
	thief := outsider(t, newKey(t))
	dial(t, thief, berlin)
	s, err := thief.NewStream(t.Context(), berlin.ID(), berlin.session.Load().protocol(joinID))
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWire(t.Context(), s, waitTime)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close(nil)
	var offer joinOffer
	var welcome joinWelcome
	err = errors.Join(w.send(joinOpen{token.Invitation.Links(), "x"}), w.receive(maxWelcome, &offer),
		w.send(joinProof{seen}), w.receive(maxWelcome, &welcome))
	if err != nil {
		t.Fatal(err)
	}
	if welcome.Status == statusOK || berlin.View().Len() != 1 {
		t.Errorf("a grant for another node lets the thief in: status %d", welcome.Status)
	}
}

// TestFlood has outsiders with slow hellos take all that they can get, while
// members are served and another one joins.
func TestFlood(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	hello := berlin.session.Load().protocol(helloID)
	const crowd = 3 * maxStrangersFromIP // all have one address
	var wg sync.WaitGroup
	for range crowd {
		h := outsider(t, newKey(t))
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), waitTime)
			defer cancel()
			if err := h.Connect(ctx, peer.AddrInfo{ID: berlin.ID(), Addrs: berlin.host.Network().ListenAddresses()}); err != nil {
				return
			}
			for range 2 * maxStrangerStreams {
				if s, err := h.NewStream(ctx, berlin.ID(), hello); err == nil {
					_, _ = s.Write([]byte{0x80, 0x80}) // and never the rest
				}
			}
		})
	}
	addrs := berlin.host.Network().ListenAddresses()
	at := slices.IndexFunc(addrs, func(a multiaddr.Multiaddr) bool {
		network, _, err := manet.DialArgs(a)
		return err == nil && strings.HasPrefix(network, "tcp")
	})
	for range 1000 { // and these never say a word
		c, err := manet.Dial(addrs[at])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	wg.Wait()
	berlin.gate.mu.Lock()
	strangers, refused := len(berlin.gate.strangers), berlin.gate.refused
	berlin.gate.mu.Unlock()
	if strangers > maxStrangersFromIP || refused == 0 {
		t.Errorf("%d strangers are connected, %d were refused", strangers, refused)
	}
	for range 20 {
		if _, err := lisbon.Ping(t.Context(), berlin.ID()); err != nil {
			t.Fatalf("a member is not served: %v", err)
		}
	}
	oslo := node(t, "oslo")
	token := berlin.invite(InviteOptions{})
	eventually(t, "oslo joins in spite of it", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		defer cancel()
		return oslo.Join(ctx, token) == nil
	})
}

func TestStrangersHaveLittleTime(t *testing.T) {
	berlin := node(t, "berlin")
	berlin.gate.patience = 50 * time.Millisecond
	h := outsider(t, newKey(t))
	dial(t, h, berlin)
	eventually(t, "the connection is closed", func() bool { return len(h.Network().ConnsToPeer(berlin.ID())) == 0 })
	eventually(t, "it does not count any more", func() bool {
		berlin.gate.mu.Lock()
		defer berlin.gate.mu.Unlock()
		return len(berlin.gate.strangers) == 0 && len(berlin.gate.fromIP) == 0
	})
}

func TestStatusesKeepTheirErrors(t *testing.T) {
	for s, want := range statusErrors {
		if !errors.Is(s.err(), want) || statusOf(fmt.Errorf("wrapped: %w", want)) != s {
			t.Errorf("status %d and %v do not belong together", s, want)
		}
	}
	if statusOK.err() != nil || statusOf(nil) != statusOK || !errors.Is(status(99).err(), ErrRefused) {
		t.Error("the edges are wrong")
	}
}

func FuzzMessages(f *testing.F) {
	for _, v := range []any{
		helloOpen{[]member.Statement{{Credential: []byte{1}}}}, helloReply{Status: statusOK}, joinOpen{Office: "x"},
		joinOffer{Time: 1}, joinProof{}, joinWelcome{}, syncOpen{}, syncHave{Same: true, Hints: []member.Hint{{}}},
		syncGive{Want: []member.ID{{1}}}, movedMessage{[]byte{1}},
	} {
		b, err := encMode.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{
			new(helloOpen), new(helloReply), new(joinOpen), new(joinOffer), new(joinProof), new(joinWelcome),
			new(syncOpen), new(syncHave), new(syncGive), new(movedMessage), new(selfState), new(rosterState),
			new(peersState), new(movesState), new(exported),
		} {
			if decodeMessage(b, v) != nil {
				continue
			}
			again, err := encMode.Marshal(v)
			if err != nil {
				t.Fatalf("%T is read but cannot be written: %v", v, err)
			}
			if err := decodeMessage(again, v); err != nil {
				t.Fatalf("%T does not read its own encoding: %v", v, err)
			}
		}
	})
}
