package exchange

import (
	"context"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/meshproxy/meshproxy/verify"
)

// tripHost counts round trips: how often something was read after something was
// written, over all streams that it opens.
type tripHost struct {
	host.Host
	mu    sync.Mutex // guards what follows
	asked bool
	trips int
}

func (h *tripHost) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	s, err := h.Host.NewStream(ctx, p, ids...)
	return tripStream{s, h}, err
}

func (h *tripHost) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trips
}

type tripStream struct {
	network.Stream
	h *tripHost
}

func (s tripStream) Write(p []byte) (int, error) {
	s.h.mu.Lock()
	s.h.asked = true
	s.h.mu.Unlock()
	return s.Stream.Write(p)
}

func (s tripStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if n > 0 && s.h.asked {
		s.h.asked = false
		s.h.trips++
	}
	return n, err
}

// TestFirstBytesAfterThreeRoundTrips asks for a zip that another office holds, and
// counts how often the question goes there and the answer back until the first file
// is here: to learn of the record, to get the listing, and to get the file.
func TestFirstBytesAfterThreeRoundTrips(t *testing.T) {
	var h *tripHost
	w := newWorld(t, 2, func(i int, c *Config) {
		if i == 1 {
			h = &tripHost{Host: c.Host}
			c.Host = h
		}
	})
	holder, asker := w.offices[0], w.offices[1]
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 300, 2<<20))
	holder.admit(r)
	gate := make(chan struct{})
	adversary{hold: func(ctx context.Context, n int) {
		if n == 1 { // what comes after the first file is not to be counted
			await(ctx, gate)
		}
	}}.takeOver(holder)
	eventually(t, "it is known which protocols the holder speaks", func() bool {
		known, err := asker.host.Peerstore().SupportsProtocols(holder.id(), RecordsID, FilesID)
		return err == nil && len(known) == 2
	})
	reply, err := asker.x.Records(t.Context(), []verify.Name{r.name(verify.Zip)}, RecordsOptions{})
	if err != nil || len(reply.Found[0].Records) == 0 {
		t.Fatal(reply, err)
	}
	tr := asker.begin(r, reply.Found[0].Holders...)
	if err := tr.Wait(t.Context(), tr.Listing().Files[0]); err != nil {
		t.Fatal(err)
	}
	if trips := h.count(); trips != 3 {
		t.Errorf("the first file was here after %d round trips, want 3", trips)
	}
	close(gate)
	if _, err := tr.Done(t.Context()); err != nil {
		t.Fatal(err)
	}
}
