package node

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"testing"

	"github.com/meshproxy/meshproxy/store"
)

// TestMeshStateOfLargeMeshes: what the store takes at once is less than the roster of a
// thousand members whose credentials were renewed.
func TestMeshStateOfLargeMeshes(t *testing.T) {
	s, err := store.Open(t.TempDir(), store.Options{ScrubRate: -1, Reserve: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := &meshState{s: s}
	if _, err := m.Get("mesh/roster"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is there, and it says %v", err)
	}
	for _, c := range []struct {
		what string
		size int
	}{{"small", 100}, {"more than the store takes at once", 5<<20 + 1}, {"as large", 5<<20 + 2}, {"small again", 200}} {
		value := make([]byte, c.size)
		rand.Read(value)
		if err := m.Put("mesh/roster", value); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got, err := m.Get("mesh/roster"); err != nil || !bytes.Equal(got, value) {
			t.Errorf("%s: %d bytes come back as %d, %v", c.what, len(value), len(got), err)
		}
		count := 0
		if err := s.Metas(meshPrefix, func(string, []byte) error { count++; return nil }); err != nil {
			t.Fatal(err)
		}
		if want := 1 + c.size/pieceSize + 1; count > want {
			t.Errorf("%s: %d values are left, want at most %d", c.what, count, want)
		}
	}
	if err := forgetPlace(s); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Get("mesh/roster"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the place is forgotten, and it says %v", err)
	}
}
