package mesh

import (
	"context"
	"sync"
	"testing"

	"github.com/meshproxy/meshproxy/verify"
)

// TestLookupsWhileClosing ends a node while it is asked who holds something: Close waits
// for lookups that have begun, and later ones end at once. The race detector tells if one
// begins while Close waits already.
func TestLookupsWhileClosing(t *testing.T) {
	for range 5 {
		n := node(t, "berlin")
		over, end := context.WithCancel(t.Context())
		var askers, begun sync.WaitGroup
		for range 4 {
			begun.Add(1)
			askers.Go(func() {
				for first := true; over.Err() == nil; first = false {
					for range n.FindProvidersAsync(context.Background(), verify.DigestOf([]byte("a listing")).CID(), 1) {
						t.Error("somebody holds it")
					}
					if first {
						begun.Done()
					}
				}
			})
		}
		begun.Wait()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		for range n.FindProvidersAsync(context.Background(), verify.DigestOf([]byte("a listing")).CID(), 1) {
			t.Error("a node that is closed found somebody")
		}
		end()
		askers.Wait()
		n.stop()
	}
}
