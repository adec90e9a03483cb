package mesh

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Limits of what is heard on the local network.
const (
	maxLAN      = 256 // peers that are remembered
	lanJoinTime = 5 * time.Second
)

// lanService is the mDNS name of a mesh. Those of other meshes do not see it.
func lanService(mesh member.Key) string {
	return "_meshproxy-" + meshTag(mesh) + "._udp"
}

// neighbours collects who announces the same mesh on the local network. It may
// be anybody; whoever is dialled has to prove its key.
type neighbours struct {
	found func(peer.AddrInfo)
	mu    sync.Mutex // guards known
	known map[peer.ID]bool
}

// HandlePeerFound implements mdns.Notifee.
func (n *neighbours) HandlePeerFound(ai peer.AddrInfo) {
	n.mu.Lock()
	if len(n.known) >= maxLAN && !n.known[ai.ID] {
		n.mu.Unlock()
		return
	}
	n.known[ai.ID] = true
	n.mu.Unlock()
	n.found(ai)
}

// startLAN looks for members on the local network. Without multicast a node does
// without it.
func (m *Mesh) startLAN(s *session) {
	if m.cfg.NoLAN {
		return
	}
	service := mdns.NewMdnsService(m.host, lanService(s.key), &neighbours{
		found: func(ai peer.AddrInfo) {
			if ai.ID != m.host.ID() {
				m.peers.neighbour(ai)
				signal(m.redial)
			}
		},
		known: map[peer.ID]bool{},
	})
	if err := service.Start(); err != nil {
		m.log.Warn("no search on the local network", "err", err)
		service.Close()
		return
	}
	s.closers = append(s.closers, service.Close)
}

// joinLAN looks on the local network for members that can let this node in.
func (m *Mesh) joinLAN(ctx context.Context, t *member.Token) (*place, peer.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, lanJoinTime)
	defer cancel()
	found := make(chan peer.AddrInfo, maxLAN)
	service := mdns.NewMdnsService(m.host, lanService(t.Invitation.Mesh()), &neighbours{
		found: func(ai peer.AddrInfo) {
			select {
			case found <- ai:
			default: // more than anybody can try
			}
		},
		known: map[peer.ID]bool{},
	})
	defer service.Close()
	if err := service.Start(); err != nil {
		return nil, "", fmt.Errorf("search on the local network: %w", err)
	}
	var last error
	tried := map[peer.ID]bool{m.host.ID(): true}
	for {
		select {
		case ai := <-found:
			if tried[ai.ID] {
				continue
			}
			tried[ai.ID] = true
			p, err := m.joinThrough(ctx, t, ai)
			if err == nil || isFinal(err) {
				return p, ai.ID, err
			}
			last = err
		case <-ctx.Done():
			if last == nil {
				last = fmt.Errorf("nobody of the mesh on the local network within %v", lanJoinTime)
			}
			return nil, "", last
		}
	}
}

// neighbour notes a peer of the local network; its address there goes first.
func (b *peerBook) neighbour(ai peer.AddrInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known[ai.ID] == nil && len(b.known) >= 2*member.MaxMembers {
		return
	}
	c := b.of(ai.ID)
	c.prefer(ai.Addrs)
	c.failed, c.next = 0, time.Time{}
}
