package upstream

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// ownAddrs tells the listeners of this node.
type ownAddrs []ownAddr

type ownAddr struct{ host, port string }

func newOwnAddrs(addrs []string) ownAddrs {
	var own ownAddrs
	for _, s := range addrs {
		if host, port, err := net.SplitHostPort(s); err == nil {
			own = append(own, ownAddr{strings.ToLower(host), port})
		}
	}
	return own
}

// has reports whether u leads to a listener. It compares names and addresses and
// resolves nothing: what it misses, the hop header catches.
func (own ownAddrs) has(u *url.URL) bool {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return slices.ContainsFunc(own, func(a ownAddr) bool { return a.port == port && a.reached(host) })
}

func (a ownAddr) reached(host string) bool {
	if a.host == host {
		return true
	}
	if !isUnspecified(a.host) {
		return isLoopback(host) && isLoopback(a.host)
	}
	return isLoopback(host) || isUnspecified(host) || isLocal(host)
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.Unmap().IsLoopback()
}

func isUnspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// isLocal reports whether host is this machine's name or an address of it.
func isLocal(host string) bool {
	if name, err := os.Hostname(); err == nil && strings.EqualFold(name, host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr() == ip.Unmap()
	})
}
