package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// puncher opens direct connections between nodes behind NATs.
type puncher struct {
	*holepunch.Service
	host  host.Host
	since atomic.Pointer[time.Time] // when the service was first seen at work
}

// punchSettle is more than the service needs from taking streams to being ready.
const punchSettle = time.Second

var errNoPublicAddr = errors.New("this node does not know yet how it looks from outside")

// DirectConnect tries to open a direct connection to p. Until the service has seen a
// public address of this node, its own method would wait for one, and nothing would
// end that wait: not even closing it. It takes streams from then on.
func (u *puncher) DirectConnect(p peer.ID) error {
	now := time.Now()
	if !slices.Contains(u.host.Mux().Protocols(), holepunch.Protocol) || u.since.CompareAndSwap(nil, &now) || now.Sub(*u.since.Load()) < punchSettle {
		return errNoPublicAddr
	}
	return u.Service.DirectConnect(p)
}

// newPuncher starts to punch holes into NATs. The host could do so by itself, but
// it tries once, when a relayed connection begins: too early for a node that does
// not know yet how it looks from outside, and never again.
func newPuncher(h host.Host) (*puncher, error) {
	inner, ok := h.(interface {
		IDService() identify.IDService
		AllAddrs() []ma.Multiaddr
	})
	if !ok {
		return nil, fmt.Errorf("start punching holes: a host of type %T does not say how it looks from outside", h)
	}
	public := func() []ma.Multiaddr {
		seen := slices.DeleteFunc(slices.Clone(inner.AllAddrs()), func(a ma.Multiaddr) bool {
			return !manet.IsPublicAddr(a) || hasProtocol(a, ma.P_CIRCUIT)
		})
		return ma.Unique(append(seen, guessed(seen, h.Network().ListenAddresses())...))
	}
	s, err := holepunch.NewService(h, inner.IDService(), public, holepunch.DirectDialTimeout(dialTimeout))
	if err != nil {
		return nil, fmt.Errorf("start punching holes: %w", err)
	}
	return &puncher{Service: s, host: h}, nil
}

// punchThrough tries to open a direct connection to p, together with it, until ctx
// ends; what was begun goes on after that.
func (m *Mesh) punchThrough(ctx context.Context, p peer.ID) {
	done := make(chan struct{})
	m.spawn(func(context.Context) { // Close ends it, by closing the puncher
		defer close(done)
		if err := m.puncher.DirectConnect(p); err != nil {
			m.log.Debug("no hole to a member", "peer", p, "err", err)
			return
		}
		m.dropRelayed(p)
	})
	select {
	case <-done:
	case <-ctx.Done():
	case <-m.ctx.Done(): // then nothing was spawned, perhaps
	}
}

// isCalled reports whether p has made the relayed connection to this node. It is
// the called one that begins to punch: both at once would stand in each other's way.
func (m *Mesh) isCalled(p peer.ID) bool {
	return slices.ContainsFunc(m.host.Network().ConnsToPeer(p), func(c network.Conn) bool {
		return wayOf(c) == Relayed && c.Stat().Direction == network.DirInbound
	})
}

// dropRelayed closes connections through relays when there is a direct one.
func (m *Mesh) dropRelayed(p peer.ID) {
	if onlyRelayed(m.host, p) {
		return
	}
	for _, c := range m.host.Network().ConnsToPeer(p) {
		if wayOf(c) == Relayed {
			c.Close()
		}
	}
}

// guessed are addresses for QUIC that nobody has seen: the public IPs with the ports
// that this node listens on, which most NATs keep. Members meet by TCP, so hardly
// one ever sees the other kind, through which it is far easier to punch: two SYNs
// have to cross on the way, datagrams only to follow each other.
func guessed(seen, listen []ma.Multiaddr) (out []ma.Multiaddr) {
	for _, l := range listen {
		port, err := l.ValueForProtocol(ma.P_UDP)
		if err != nil || !hasProtocol(l, ma.P_QUIC_V1) {
			continue
		}
		for _, s := range seen {
			family := "ip6"
			ip, err := s.ValueForProtocol(ma.P_IP6)
			if err != nil {
				family = "ip4"
				ip, err = s.ValueForProtocol(ma.P_IP4)
			}
			if err != nil || !hasProtocol(l, s[0].Code()) {
				continue
			}
			if a, err := ma.NewMultiaddr("/" + family + "/" + ip + "/udp/" + port + "/quic-v1"); err == nil {
				out = append(out, a)
			}
		}
	}
	return out
}
