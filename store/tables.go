package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// verifyTables checks the checksum of every block of every table that Badger's
// manifest names. It goes by the files, not through an open database: Badger does
// not look at a block before a compaction does, and then a damaged one may end the
// process. Tables that a running database replaces meanwhile are passed over.
func verifyTables(dir string, o badger.Options) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	manifest, _, err := badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		return nil // to say what is wrong with it is for opening the database
	}
	for id := range manifest.Tables {
		err := verifyTable(table.NewFilename(id, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return damaged(fmt.Sprintf("database table %d", id), err)
		}
	}
	return nil
}

func verifyTable(name string) error {
	if _, err := os.Stat(name); err != nil {
		return err
	}
	mapped, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return guard(func() error {
		// It closes the file if there is an error.
		t, err := table.OpenTable(mapped, table.Options{ChkMode: options.OnTableAndBlockRead})
		if err != nil {
			return err
		}
		return t.MmapFile.Close(-1)
	})
}

// guard turns a panic of Badger's, which a damaged table can cause before its
// checksum is looked at, into an error. fn must call nothing but Badger.
func guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("database panics: %v: %w", r, ErrDamaged)
		}
	}()
	return fn()
}

// openMarker is the file that stands while a store is open: after a crash it tells
// the next Open to check the tables, which a store that was closed does not need.
const openMarker = "open"

// checkAfterCrash looks at the tables if the store was not closed, and asks for a
// repair if one is damaged.
func (s *Store) checkAfterCrash() error {
	_, err := os.Stat(filepath.Join(s.dir, openMarker))
	if err == nil {
		err = verifyTables(s.data, badgerOptions(s.data, s.o))
	}
	if errors.Is(err, ErrDamaged) {
		s.needsRepair(err.Error())
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Store) setOpenMarker() error {
	return os.WriteFile(filepath.Join(s.dir, openMarker), nil, 0o600)
}

func (s *Store) clearOpenMarker() error {
	err := os.Remove(filepath.Join(s.dir, openMarker))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
