package store

import (
	"context"
	"testing"
)

// checkStore fails the test if the whole-store checker finds anything.
func checkStore(t testing.TB, s *Store) {
	t.Helper()
	problems, err := s.Check(context.Background(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}
