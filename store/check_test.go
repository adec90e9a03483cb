package store

import "testing"

func checkStore(t testing.TB, s *Store) { t.Helper() }
