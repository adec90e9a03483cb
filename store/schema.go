package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// migrations bring a store forward: the first from schema 1 to 2, and so on. Each
// may be interrupted and is then run again from its beginning, so it must be able
// to meet what it did before.
var migrations = []func(*badger.DB) error{}

// schema is the version of keyspace and encodings that this program writes.
var schema = uint32(len(migrations) + 1)

// migrate brings a database to the schema that steps lead to, and writes it into a
// new one. After each step it notes the version that was reached, synced.
func migrate(db *badger.DB, steps []func(*badger.DB) error) error {
	want := uint32(len(steps) + 1)
	have, err := readSchema(db)
	if errors.Is(err, ErrNotFound) {
		if err := mustBeEmpty(db); err != nil {
			return err
		}
		return writeSchema(db, want)
	}
	if err != nil {
		return err
	}
	if have > want || have == 0 {
		return fmt.Errorf("schema %d, this program knows %d; use the version that wrote it: %w", have, want, ErrNewer)
	}
	for ; have < want; have++ {
		if err := steps[have-1](db); err != nil {
			return fmt.Errorf("migrate from schema %d: %w", have, err)
		}
		if err := writeSchema(db, have+1); err != nil {
			return fmt.Errorf("migrate from schema %d: %w", have, err)
		}
	}
	return nil
}

// refuseNewer returns ErrNewer for a database of a newer version of this program,
// in which a repair would take for damage what it does not know.
func refuseNewer(db *badger.DB, data string) error {
	have, err := readSchema(db)
	if err != nil {
		have, err = notedSchema(data)
	}
	if err == nil && have > schema {
		return newer(have)
	}
	return nil // what cannot be read is what a repair is for
}

func newer(have uint32) error {
	return fmt.Errorf("schema %d, this program knows %d; use the version that wrote it: %w", have, schema, ErrNewer)
}

func readSchema(db *badger.DB) (uint32, error) {
	txn := db.NewTransaction(false)
	defer txn.Discard()
	v, err := getValue(txn, []byte{spaceSchema})
	if err != nil {
		return 0, err
	}
	if len(v) != 4 {
		return 0, damaged("schema version", fmt.Errorf("%d bytes", len(v)))
	}
	return binary.BigEndian.Uint32(v), nil
}

func writeSchema(db *badger.DB, version uint32) error {
	err := db.Update(func(txn *badger.Txn) error {
		k, v := schemaPair(version)
		return txn.Set(k, v)
	})
	if err != nil {
		return err
	}
	return db.Sync()
}

func schemaPair(version uint32) (k, sealed []byte) {
	k = []byte{spaceSchema}
	return k, seal(k, binary.BigEndian.AppendUint32(nil, version))
}

// mustBeEmpty refuses a database without a schema version that has other keys: it
// is not ours, or has lost its beginning.
func mustBeEmpty(db *badger.DB) error {
	txn := db.NewTransaction(false)
	defer txn.Discard()
	return scan(txn, nil, []byte{0}, false, func(*badger.Item) error {
		return damaged("schema version", errors.New("missing in a database that is not empty"))
	})
}
