package mesh

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// checkFree finds out whether other programs listen on any of the addresses. libp2p
// opens its ports with SO_REUSEPORT, for hole punching: two nodes of one user would
// open the same one, and who dials it would reach either. What else is wrong with an
// address is for libp2p to say.
func checkFree(addrs []string) error {
	listen, err := parseAddrs(addrs)
	if err != nil {
		return err
	}
	for _, addr := range listen {
		if err := tryListen(addr); errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listen for other offices: %w", err)
		}
	}
	return nil
}

// tryListen listens on an address the ordinary way, for a moment.
func tryListen(addr ma.Multiaddr) error {
	network, hostPort, err := manet.DialArgs(addr)
	if err != nil {
		return nil // no address of this machine
	}
	switch network {
	case "tcp4", "tcp6":
		l, err := net.Listen(network, hostPort)
		if err != nil {
			return err
		}
		return l.Close()
	case "udp4", "udp6":
		c, err := net.ListenPacket(network, hostPort)
		if err != nil {
			return err
		}
		return c.Close()
	}
	return nil
}
