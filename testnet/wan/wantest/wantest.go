// Package wantest gives tests emulated networks: a test that asks for one is skipped,
// by name and with the reason, on a machine that has none. It is apart from package
// wan because the binary that ships holds that one, and nothing of package testing.
package wantest

import (
	"errors"
	"testing"

	"github.com/meshproxy/meshproxy/testnet/wan"
)

// New is wan.New for a test: the network is closed when the test ends.
func New(t testing.TB) *wan.Network {
	t.Helper()
	n, err := wan.New(1)
	if errors.Is(err, wan.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}
