package node

import (
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Reach says how this office and others get to each other, beyond what they find
// out themselves: addresses of interfaces, those that peers see, mDNS, and relays.
type Reach struct {
	Announce  []string // multiaddrs told to others beside those found, such as a forwarded port
	Peers     []string // multiaddrs with /p2p/ID of members to dial, beside those known
	BehindNAT bool     // nobody can dial this office: it keeps a place at a relay from the start on
	PortMap   bool     // ask the router for a port by UPnP or NAT-PMP, unless only this machine is listened to
}

// onlyHere reports whether nobody but this machine can dial these multiaddrs.
func onlyHere(addrs []string) bool {
	for _, text := range addrs {
		a, err := ma.NewMultiaddr(text)
		if err != nil || !manet.IsIPLoopback(a) {
			return false
		}
	}
	return true
}
