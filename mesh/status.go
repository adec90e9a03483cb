package mesh

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Pings among members.
const (
	pingSize  = 32
	pingTime  = 5 * time.Second
	pingIdle  = time.Minute // until the answerer gives up on a stream
	pingEvery = 30 * time.Second
	// pingsAtOnce is how many members are measured each time, the others later.
	pingsAtOnce = 16
)

// Way is how a peer is connected.
type Way string

// Ways.
const (
	Away    Way = ""
	LAN     Way = "lan"
	Direct  Way = "direct"
	Relayed Way = "relayed"
)

// PeerStatus is what a node knows of a member.
type PeerStatus struct {
	Peer     peer.ID
	Office   string
	Role     member.Role
	Self     bool
	Way      Way
	Addr     string        // of the connection, or where it was last reached
	RTT      time.Duration // 0 if it was not measured
	LastSeen time.Time     // zero: never since this node knows of it
	Expires  time.Time     // of its credential
	// Zips is how many zips it said last that it announces to every member: not those
	// that only some may know of. Nil: it has not said.
	Zips *uint32
	// Overused names the other nodes that joined by the same invitation, which
	// was for fewer: someone used it on both sides of a partition.
	Overused []peer.ID
}

// Peers tells of every member, this node first, then by office.
func (m *Mesh) Peers() []PeerStatus {
	v := m.view.Load()
	shared := map[peer.ID][]peer.ID{}
	for _, i := range v.Invitations() {
		if i.Overused() {
			for _, p := range i.Admitted {
				shared[p] = append(shared[p], slices.DeleteFunc(slices.Clone(i.Admitted), func(o peer.ID) bool { return o == p })...)
			}
		}
	}
	var out []PeerStatus
	for _, i := range v.Members() {
		s := PeerStatus{
			Peer: i.Peer, Office: i.Office, Role: i.Role, Expires: i.Expires,
			Self: i.Peer == m.host.ID(), Overused: shared[i.Peer],
		}
		m.connection(&s)
		out = append(out, s)
	}
	slices.SortStableFunc(out, func(a, b PeerStatus) int {
		if a.Self != b.Self {
			if a.Self {
				return -1
			}
			return 1
		}
		return bytes.Compare([]byte(a.Office), []byte(b.Office))
	})
	return out
}

func (m *Mesh) connection(s *PeerStatus) {
	if s.Self {
		s.LastSeen, s.Zips = time.Now(), m.holds.count()
		return
	}
	addrs := m.peers.addrs(s.Peer)
	m.peers.mu.Lock()
	if k := m.peers.known[s.Peer]; k != nil {
		s.LastSeen, s.RTT, s.Zips = k.seen, k.rtt, k.zips
	}
	m.peers.mu.Unlock()
	if len(addrs) > 0 {
		s.Addr = addrs[0].String()
	}
	for _, c := range m.host.Network().ConnsToPeer(s.Peer) {
		way := wayOf(c)
		if s.Way == Away || s.Way == Relayed {
			s.Way, s.Addr = way, c.RemoteMultiaddr().String()
		}
		s.LastSeen = time.Now()
	}
	if s.Way == Away {
		s.RTT = 0
	}
}

func wayOf(c network.Conn) Way {
	a := c.RemoteMultiaddr()
	if hasProtocol(a, ma.P_CIRCUIT) {
		return Relayed
	}
	if isLAN(a) {
		return LAN
	}
	return Direct
}

// Ping measures the round trip to a member.
func (m *Mesh) Ping(ctx context.Context, p peer.ID) (_ time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	s, err := m.members.NewStream(ctx, p, protocolRoot+pingID)
	if err != nil {
		return 0, fmt.Errorf("ping: %w", err)
	}
	w, err := newWire(ctx, s, pingTime)
	if err != nil {
		return 0, err
	}
	defer func() { w.close(err) }()
	var rtt time.Duration
	for range 2 { // the first opens the stream as well
		sent, got := make([]byte, pingSize), make([]byte, pingSize)
		if _, err := rand.Read(sent); err != nil {
			return 0, fmt.Errorf("ping: %w", err)
		}
		start := time.Now()
		if _, err := s.Write(sent); err != nil {
			return 0, fmt.Errorf("ping %s: %w", p, err)
		}
		if _, err := io.ReadFull(s, got); err != nil {
			return 0, fmt.Errorf("ping %s: %w", p, err)
		}
		if !bytes.Equal(sent, got) {
			return 0, fmt.Errorf("ping %s: it answered something else", p)
		}
		rtt = time.Since(start)
	}
	m.peers.mu.Lock()
	m.peers.of(p).rtt = rtt
	m.peers.mu.Unlock()
	return rtt, nil
}

func (m *Mesh) servePing(s network.Stream) {
	w, err := newWire(m.ctx, s, pingIdle)
	if err != nil {
		return
	}
	buf := make([]byte, pingSize)
	for err == nil {
		if _, err = io.ReadFull(s, buf); err == nil {
			_, err = s.Write(buf)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	w.close(err)
}
