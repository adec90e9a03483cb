package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Host is one member's end of the network: as much of a libp2p host as
// mesh/exchange uses. Every other method panics, so that nothing is measured that
// is not simulated.
type Host struct {
	host.Host
	net       *Network
	id        peer.ID
	x, y      float64 // where it is, each from 0 to 1
	up, down  lane
	linked    atomic.Bool   // others take it for connected
	gone      atomic.Bool   // it fell silent
	sent, got atomic.Uint64 // bytes

	mu       sync.Mutex // guards what follows
	handlers map[protocol.ID]network.StreamHandler
	watchers []network.Notifiee
	open     map[*stream]struct{}
	most     int // of open
}

// ID implements host.Host.
func (h *Host) ID() peer.ID { return h.id }

// SetStreamHandler implements host.Host.
func (h *Host) SetStreamHandler(id protocol.ID, f network.StreamHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[id] = f
}

// RemoveStreamHandler implements host.Host.
func (h *Host) RemoveStreamHandler(id protocol.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.handlers, id)
}

// Network implements host.Host.
func (h *Host) Network() network.Network { return hostNetwork{h: h} }

// Peerstore implements host.Host.
func (h *Host) Peerstore() peerstore.Peerstore { return noLatencies{} }

// noLatencies is the peerstore of a host that has pinged nobody.
type noLatencies struct{ peerstore.Peerstore }

func (noLatencies) LatencyEWMA(peer.ID) time.Duration { return 0 }

// hostNetwork is a host's side of network.Network.
type hostNetwork struct {
	network.Network
	h *Host
}

func (n hostNetwork) Notify(f network.Notifiee) {
	n.h.mu.Lock()
	defer n.h.mu.Unlock()
	n.h.watchers = append(n.h.watchers, f)
}

func (n hostNetwork) StopNotify(f network.Notifiee) {
	n.h.mu.Lock()
	defer n.h.mu.Unlock()
	n.h.watchers = slices.DeleteFunc(n.h.watchers, func(w network.Notifiee) bool { return w == f })
}

func (n hostNetwork) Connectedness(p peer.ID) network.Connectedness {
	if to := n.h.net.hosts[p]; to != nil && to.linked.Load() {
		return network.Connected
	}
	return network.NotConnected
}

func (h *Host) notify(p peer.ID, what func(network.Notifiee, network.Network, network.Conn)) {
	h.mu.Lock()
	watchers := slices.Clone(h.watchers)
	h.mu.Unlock()
	for _, w := range watchers {
		what(w, hostNetwork{h: h}, conn{remote: p})
	}
}

// conn tells who is on the other side.
type conn struct {
	network.Conn
	remote peer.ID
}

func (c conn) RemotePeer() peer.ID { return c.remote }

// NewStream implements host.Host. On an open connection it costs no round trip:
// the protocol is negotiated with the first message, as libp2p does it with a peer
// whose protocols it knows. Without a connection the dial takes as long as it may:
// who is not connected has fallen silent.
func (h *Host) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	to := h.net.hosts[p]
	if to == nil || h.gone.Load() {
		return nil, fmt.Errorf("dial %v: no route", p)
	}
	if !to.linked.Load() {
		dial := time.NewTimer(network.GetDialPeerTimeout(ctx))
		defer dial.Stop()
		select {
		case <-dial.C:
			return nil, fmt.Errorf("dial %v: timed out", p)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	here, there := newStreams(h, to, ids[0])
	here.count.streams.Add(1)
	time.AfterFunc(h.net.latency(h, to), there.arrive)
	return here, nil
}

// track notes an open stream; false is that this host is gone.
func (h *Host) track(s *stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone.Load() {
		return false
	}
	h.open[s] = struct{}{}
	h.most = max(h.most, len(h.open))
	return true
}

func (h *Host) untrack(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, s)
}

func (h *Host) streams() []*stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.open))
}

// mostStreams is how many streams were open at one time.
func (h *Host) mostStreams() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.most
}

func (h *Host) handler(id protocol.ID) network.StreamHandler {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.handlers[id]
}
