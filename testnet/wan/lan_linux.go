package wan

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// LAN is an office network: a bridge that sites are at besides, each with an address
// of a private block. Multicast works there, which the network between sites does
// not carry.
type LAN struct {
	bridge *namespace
	sites  []*Site
	block  byte // 192.168.block.0/24
}

const lanDevice = "office0"

// NewLAN puts sites on a network of their own, at most one of which each can be on.
// The caller closes it.
func NewLAN(sites ...*Site) (*LAN, error) {
	bridge, err := newNamespace()
	if err != nil {
		return nil, err
	}
	l := &LAN{bridge: bridge, sites: sites, block: 50}
	if err := l.build(); err != nil {
		return nil, fmt.Errorf("make an office network: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}

func (l *LAN) build() error {
	if err := l.bridge.ip("link add br0 type bridge mcast_snooping 0", "link set br0 up"); err != nil {
		return err
	}
	for i, s := range l.sites {
		port := fmt.Sprintf("port%d", i)
		err := l.bridge.ip(
			fmt.Sprintf("link add %s type veth peer name %s netns /proc/%d/fd/%d", port, lanDevice, os.Getpid(), s.inner.file.Fd()),
			fmt.Sprintf("link set %s master br0", port), fmt.Sprintf("link set %s up", port))
		if err == nil {
			err = s.inner.ip("link set lo up", fmt.Sprintf("link set %s up", lanDevice), "addr add "+l.cidr(s)+" dev "+lanDevice,
				fmt.Sprintf("route add 224.0.0.0/4 dev %s", lanDevice))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Addr is the address of a site on this network; invalid if it is not on it.
func (l *LAN) Addr(s *Site) netip.Addr {
	for i, other := range l.sites {
		if s == other {
			return netip.AddrFrom4([4]byte{192, 168, l.block, byte(i + 1)})
		}
	}
	return netip.Addr{}
}

func (l *LAN) cidr(s *Site) string { return l.Addr(s).String() + "/24" }

// Renumber gives all sites addresses that none of them had, as when a router was
// exchanged.
func (l *LAN) Renumber() error {
	for _, s := range l.sites {
		if err := s.inner.ip("addr del " + l.cidr(s) + " dev " + lanDevice); err != nil {
			return err
		}
	}
	l.block++
	for _, s := range l.sites {
		if err := s.inner.ip("addr add " + l.cidr(s) + " dev " + lanDevice); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the network.
func (l *LAN) Close() error { return l.bridge.close() }
