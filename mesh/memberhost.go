package mesh

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// protocolRoot begins every protocol ID of this project.
const protocolRoot = "/meshproxy"

// memberHost is the host as members' protocols see it: their IDs carry the
// prefix of the mesh, and a stream opens only after the peer knows this node.
type memberHost struct {
	host.Host
	m *Mesh

	mu       sync.Mutex // guards all below
	prefix   string     // of the mesh, without slash at its end
	handlers map[string]network.StreamHandler
}

// full returns the ID under the prefix of the mesh. The caller holds mu.
func (h *memberHost) full(id protocol.ID) protocol.ID {
	if h.prefix == "" || strings.HasPrefix(string(id), h.prefix+"/") {
		return id
	}
	return protocol.ID(h.prefix + strings.TrimPrefix(string(id), protocolRoot))
}

// SetStreamHandler registers f for id under the prefix of the mesh, and under
// that of the next mesh when the node joins another.
func (h *memberHost) SetStreamHandler(id protocol.ID, f network.StreamHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if full := h.full(id); full != id {
		h.handlers[string(id)] = f
	}
	h.Host.SetStreamHandler(h.full(id), f)
}

// RemoveStreamHandler undoes SetStreamHandler.
func (h *memberHost) RemoveStreamHandler(id protocol.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.handlers, string(id))
	h.Host.RemoveStreamHandler(h.full(id))
}

// move registers all handlers under another prefix.
func (h *memberHost) move(prefix string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.handlers {
		h.Host.RemoveStreamHandler(h.full(protocol.ID(id)))
	}
	h.prefix = prefix
	for id, f := range h.handlers {
		h.Host.SetStreamHandler(h.full(protocol.ID(id)), f)
	}
}

// NewStream opens a stream to a member, dialling it first if ctx allows that.
func (h *memberHost) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	if !h.m.IsMember(p) {
		return nil, fmt.Errorf("stream to %s: %w", p, errStranger)
	}
	if noDial, _ := network.GetNoDial(ctx); !noDial {
		if err := h.Host.Connect(ctx, peer.AddrInfo{ID: p}); err != nil {
			return nil, fmt.Errorf("stream to %s: %w", p, err)
		}
	}
	if err := h.m.introduce(ctx, p); err != nil {
		return nil, fmt.Errorf("stream to %s: %w", p, err)
	}
	full := make([]protocol.ID, len(ids))
	h.mu.Lock()
	for i, id := range ids {
		full[i] = h.full(id)
	}
	h.mu.Unlock()
	return h.Host.NewStream(network.WithNoDial(ctx, "dialled above"), p, full...)
}
