package mesh

import (
	"slices"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

// TestGuessedAddressesAreOfTheSameFamily: a node behind NAT has seen how it looks
// by TCP, and guesses how it does by QUIC.
func TestGuessedAddressesAreOfTheSameFamily(t *testing.T) {
	parse := func(texts ...string) (out []ma.Multiaddr) {
		for _, s := range texts {
			a, err := ma.NewMultiaddr(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, a)
		}
		return out
	}
	listen := parse("/ip4/0.0.0.0/tcp/4911", "/ip4/0.0.0.0/udp/4911/quic-v1", "/ip6/::/udp/4912/quic-v1")
	for name, c := range map[string]struct{ seen, want []string }{
		"by TCP": {[]string{"/ip4/203.0.113.7/tcp/9"}, []string{"/ip4/203.0.113.7/udp/4911/quic-v1"}},
		"IPv6":   {[]string{"/ip6/2001:db8::7/tcp/9"}, []string{"/ip6/2001:db8::7/udp/4912/quic-v1"}},
		"a name": {[]string{"/dns4/host.test/tcp/9"}, nil},
		"nobody": {nil, nil},
	} {
		var got []string
		for _, a := range guessed(parse(c.seen...), listen) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: guessed %v, want %v", name, got, c.want)
		}
	}
}
