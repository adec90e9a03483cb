package mesh

import (
	"slices"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

// TestAnnouncedInFrontOfLoopback: a node that only this machine can dial, and that
// says where it is reached, stands behind something that forwards to it.
func TestAnnouncedInFrontOfLoopback(t *testing.T) {
	const front = "/ip4/127.0.0.1/tcp/4"
	for name, c := range map[string]struct {
		announce []string
		want     func(addrs []string, listens []ma.Multiaddr) bool
	}{
		"announced": {[]string{front}, func(addrs []string, _ []ma.Multiaddr) bool { return slices.Equal(addrs, []string{front}) }},
		"not announced": {nil, func(addrs []string, listens []ma.Multiaddr) bool {
			return len(addrs) == 1 && slices.ContainsFunc(listens, func(a ma.Multiaddr) bool { return a.String() == addrs[0] })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(t, "berlin", func(c2 *Config) { c2.Announce = c.announce })
			var addrs []string
			for _, a := range n.host.Addrs() {
				addrs = append(addrs, a.String())
			}
			if !c.want(addrs, n.host.Network().ListenAddresses()) {
				t.Errorf("tells others of %v, listening at %v", addrs, n.host.Network().ListenAddresses())
			}
		})
	}
}
