package store

import (
	"errors"
	"io/fs"
	"testing"
)

func TestSumDBCache(t *testing.T) {
	const head, tile = "sums.test+0123abcd/latest", "sums.test+0123abcd/tile/8/0/000"
	s := openTest(t, t.TempDir(), smallOptions())
	cache := s.SumDB()
	t.Run("what was never put is absent", func(t *testing.T) {
		if _, err := cache.Get(head); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
	t.Run("a tree head is on disk when Put returns", func(t *testing.T) {
		if err := cache.Put(tile, []byte("tile")); err != nil {
			t.Fatal(err)
		}
		before := s.syncCount.Load()
		if err := cache.Put(head, []byte("head")); err != nil {
			t.Fatal(err)
		}
		if s.syncCount.Load() == before {
			t.Fatal("Put returned without a sync")
		}
	})
	t.Run("a damaged tree head is no fresh start", func(t *testing.T) {
		flip(t, s, key(spaceSumDB, head))
		_, err := cache.Get(head)
		if !errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%v, want ErrDamaged alone", err)
		}
	})
	t.Run("a damaged tree head can be put again", func(t *testing.T) {
		if err := cache.Put(head, []byte("newer")); err != nil {
			t.Fatal(err)
		}
		if b, err := cache.Get(head); err != nil || string(b) != "newer" {
			t.Fatalf("%q, %v", b, err)
		}
	})
}
