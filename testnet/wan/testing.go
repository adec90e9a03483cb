package wan

import (
	"errors"
	"testing"
)

// NewForTest is New for a test: it skips the test, saying why, where the machine has
// no such networks, and closes the network when the test ends.
func NewForTest(t testing.TB) *Network {
	t.Helper()
	n, err := New(1)
	if errors.Is(err, ErrUnavailable) {
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
