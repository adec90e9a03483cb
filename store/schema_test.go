package store

import (
	"errors"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

func TestMigrate(t *testing.T) {
	o := smallOptions()
	o.defaults()
	db, err := badger.Open(badgerOptions(t.TempDir(), o))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var ran []int
	var fail error
	step := func(n int) func(*badger.DB) error {
		return func(*badger.DB) error {
			ran = append(ran, n)
			if n == 2 {
				return fail
			}
			return nil
		}
	}
	steps := []func(*badger.DB) error{step(1), step(2), step(3)}
	if err := migrate(db, nil); err != nil || len(ran) > 0 {
		t.Fatalf("a new database: %v", err)
	}
	fail = errors.New("power cut")
	if err := migrate(db, steps); !errors.Is(err, fail) {
		t.Fatal(err)
	}
	fail = nil
	if err := migrate(db, steps); err != nil || !slices.Equal(ran, []int{1, 2, 2, 3}) {
		t.Fatalf("ran %v, %v", ran, err)
	}
	if v, err := readSchema(db); err != nil || v != 4 {
		t.Fatalf("schema %d, %v", v, err)
	}
	if err := migrate(db, steps[:2]); !errors.Is(err, ErrNewer) {
		t.Fatalf("an older program: %v", err)
	}
}

func TestOpenRefusesWhatIsNotOurs(t *testing.T) {
	for _, tc := range []struct {
		name string
		k    []byte
		want error
	}{
		{"newer schema", []byte{spaceSchema}, ErrNewer},
		{"no schema and other keys", []byte("other"), ErrDamaged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			o := smallOptions()
			o.defaults()
			db, err := badger.Open(badgerOptions(dir+"/badger", o))
			if err != nil {
				t.Fatal(err)
			}
			_, value := schemaPair(schema + 1)
			if err := db.Update(func(txn *badger.Txn) error { return txn.Set(tc.k, value) }); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first one must not make the second suspect a crash
				if s, err := Open(dir, smallOptions()); !errors.Is(err, tc.want) {
					t.Fatalf("%v, %v", s, err)
				}
			}
			if tc.want != ErrNewer {
				return
			}
			if _, err := Repair(t.Context(), dir, smallOptions(), nil); !errors.Is(err, ErrNewer) {
				t.Fatalf("repaired: %v", err)
			}
		})
	}
}
