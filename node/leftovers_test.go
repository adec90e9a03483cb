package node

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// TestLeftoversAreGivenUp has several tries at one zip fail at the same time: in the end
// the store must have nothing of it left that somebody forgot to close.
func TestLeftoversAreGivenUp(t *testing.T) {
	s, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := module.Version{Path: "example.test/words", Version: "v1.0.0"}
	listing := verify.Listing{Files: []verify.File{{Name: m.Path + "@" + m.Version + "/a.txt", Sum: verify.DigestOf([]byte("a"))}}}.Encode()
	root := verify.DigestOf(listing)
	for range 50 {
		l := newLeftovers()
		var tries sync.WaitGroup
		start := make(chan struct{})
		for range 8 {
			staged, err := s.StageListing(t.Context(), m, root, listing)
			if err != nil {
				t.Fatal(err)
			}
			tries.Go(func() {
				<-start
				l.keep(staged)
			})
		}
		close(start)
		tries.Wait()
		if _, err := s.Listing(root); err != nil || len(l.held) != 1 {
			t.Fatalf("%d zips are kept, want one; its listing: %v", len(l.held), err)
		}
		l.close()
		if _, err := s.Listing(root); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("something of it is held still: %v", err)
		}
	}
}
