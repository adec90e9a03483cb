package mesh

import (
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// TestIdleStreamsEnd: a stream of the DHT's that nobody uses is closed, and the next
// question opens another one.
func TestIdleStreamsEnd(t *testing.T) {
	berlin, lisbon := node(t, "berlin"), node(t, "lisbon")
	lisbon.join(berlin)
	connected(t, berlin, lisbon)
	s := newSender(berlin.Host(), []protocol.ID{"/meshproxy/kad/1.0.0"})
	defer s.close()
	pooled := func() []*rpcStream {
		s.mu.Lock()
		defer s.mu.Unlock()
		return append([]*rpcStream(nil), s.idle[lisbon.ID()]...)
	}
	ask := func() {
		t.Helper()
		if _, err := s.SendRequest(t.Context(), lisbon.ID(), pb.NewMessage(pb.Message_FIND_NODE, []byte(peer.ID("x")), 0)); err != nil {
			t.Fatal(err)
		}
		if len(pooled()) != 1 {
			t.Fatalf("%d streams are kept after a question, want 1", len(pooled()))
		}
	}
	ask()
	first := pooled()[0]
	first.end.Reset(time.Millisecond) // sooner than streamIdle
	eventually(t, "the stream is given up", func() bool { return len(pooled()) == 0 })
	ask()
	if pooled()[0] == first {
		t.Error("a stream that was given up is used again")
	}
	s.OnDisconnect(t.Context(), lisbon.ID())
	if len(pooled()) != 0 {
		t.Error("streams to a peer that is gone are kept")
	}
}
