package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"
)

// What Badger cannot write while it merges tables it loses, with all that was in them.
// Of most keys it shows when they are read, and costs what they said. This file is for
// those that stand alone, and that the rest of the store is of no use or false without.

// schemaName is a file in Badger's directory that says the schema once more.
const schemaName = "schema"

// samples is how many values of each keyspace must show whose database it is.
const samples = 8

// restoreSchema puts the schema version back into a database that has lost it and
// plainly is a store: all its keys are of this keyspace, and most of the values that are
// looked at end in their checksums. Anything else is left as it is, for migrate to refuse.
func restoreSchema(db *badger.DB, data string) (restored bool, err error) {
	if _, err := readSchema(db); !errors.Is(err, ErrNotFound) {
		return false, nil
	}
	txn := db.NewTransaction(false)
	defer txn.Discard()
	if !isStore(txn) {
		return false, nil
	}
	noted, err := notedSchema(data)
	if err != nil {
		return false, fmt.Errorf("schema version is lost: %w", err)
	}
	if noted > schema {
		return false, newer(noted)
	}
	return true, writeSchema(db, max(noted, 1))
}

// notedSchema is what noteSchema wrote, or 0: then no program had the store open that
// knows another schema than the first, as they all write it.
func notedSchema(data string) (uint32, error) {
	text, err := os.ReadFile(filepath.Join(data, schemaName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil || n == 0 {
		return 0, damaged(schemaName+" in "+data, fmt.Errorf("%.100q is no schema version", text))
	}
	return uint32(n), nil
}

// isStore reports whether a database has keys of a store, and no others.
func isStore(txn *badger.Txn) bool {
	good, bad := 0, 0
	for space := range 256 {
		seen := 0
		err := scan(txn, []byte{byte(space)}, nil, false, func(item *badger.Item) error {
			if !strings.ContainsRune(spaces, rune(space)) {
				return ErrDamaged
			}
			if viewItem(item, func([]byte) error { return nil }) == nil {
				good++
			} else {
				bad++
			}
			if seen++; seen == samples {
				return errStop
			}
			return nil
		})
		if err != nil {
			return false
		}
	}
	return good > bad
}

// noteSchema writes the file that says the schema once more, if it does not say so. A
// disk that does not take it is no reason not to open.
func (s *Store) noteSchema() {
	name := filepath.Join(s.data, schemaName)
	text := fmt.Sprintln(schema)
	if have, err := os.ReadFile(name); err == nil && string(have) == text {
		return
	}
	if err := replaceFile(name, []byte(text)); err != nil {
		s.o.Logger.Warn("the schema version could not be noted beside the store", "error", err)
	}
}

// firstNumber is the one that numbers of new streams follow. It is past the clock, in
// microseconds, which no store counts as fast as: a number that was given and is lost
// must not be given again, or one file's stream would come to stand in the place of another's.
func firstNumber(txn *badger.Txn, now time.Time) uint64 {
	kept, err := getNumber(txn, spaceNumber)
	if err != nil {
		kept = 0 // that it was damaged costs nothing either
	}
	return max(kept, lastNumber(txn, spaceChunk), clockNumber(now))
}

// nextEpoch follows epoch, and all that were lost, for the same reason: a layout of one
// that comes again would be taken for good.
func nextEpoch(epoch uint64, now time.Time) uint64 { return max(epoch+1, clockNumber(now)) }

func clockNumber(now time.Time) uint64 { return uint64(max(now.UnixMicro(), 0)) }

// lastNumber is the number in the last key of a keyspace whose keys begin with one.
func lastNumber(txn *badger.Txn, space byte) (last uint64) {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues, o.Reverse = []byte{space}, false, true
	it := txn.NewIterator(o)
	defer it.Close()
	err := guard(func() error { it.Seek([]byte{space, 255, 255, 255, 255, 255, 255, 255, 255, 255}); return nil })
	if err != nil || !it.Valid() || len(it.Item().Key()) < 9 {
		return 0
	}
	return binary.BigEndian.Uint64(it.Item().Key()[1:])
}

// loadSingle reads the keys that stand alone, and makes up for those that are lost. If
// the schema version was, the others may be old ones, and are not gone by.
func (s *Store) loadSingle(schemaLost bool) error {
	var lost []string
	if schemaLost {
		lost = append(lost, "schema version")
	}
	now := s.o.Clock()
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	s.arrival = lastNumber(txn, spaceArrival)
	s.number = firstNumber(txn, now)
	var changes []change
	epoch, err := getEpoch(txn)
	if known, _ := hasKey(txn, []byte{spaceEpoch}); err != nil || !known || schemaLost {
		if noted, _ := notedSchema(s.data); noted > 0 && !schemaLost { // else it may never have been
			lost = append(lost, "epoch")
		}
		epoch = nextEpoch(epoch, now)
		changes = append(changes, change{[]byte{spaceEpoch}, binary.BigEndian.AppendUint64(nil, epoch)})
	}
	s.epoch.Store(epoch)
	v, err := getValue(txn, []byte{spaceAccount})
	if err == nil {
		err = decMode.Unmarshal(v, &s.acct)
	}
	if err != nil || schemaLost {
		if s.acct, err = recount(txn); err != nil {
			return err
		}
		if !schemaLost && s.acct != (Accounting{}) { // else there was nothing to count
			lost = append(lost, "accounting")
		}
		changes = append(changes, change{[]byte{spaceAccount}, must(encMode.Marshal(s.acct))})
	}
	acct := s.acct
	s.published.Store(&acct)
	if len(lost) > 0 {
		s.lost = len(lost)
		s.o.Logger.Error("store had lost essential keys; they were restored, but more may be lost: run meshproxy verify", "lost", strings.Join(lost, ", "))
		s.needsRepair("lost were: " + strings.Join(lost, ", "))
	}
	return s.setSingle(changes)
}

// setSingle makes changes before there is a writer.
func (s *Store) setSingle(changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	err := s.db.Update(func(txn *badger.Txn) error {
		for _, c := range changes {
			if err := txn.Set(c.k, seal(c.k, c.value)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, s.db.Sync())
}

// recount counts what the store holds, as far as it can be read.
func recount(txn *badger.Txn) (a Accounting, err error) {
	each := func(space byte, values bool, fn func(k []byte, item *badger.Item) error) {
		if err == nil {
			err = scan(txn, []byte{space}, nil, values, func(item *badger.Item) error {
				if err := fn(item.KeyCopy(nil), item); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) {
					return err
				}
				return nil
			})
		}
	}
	each(spaceFile, true, func(k []byte, item *badger.Item) error {
		sum, err := parseDigest(k)
		if err != nil {
			return err
		}
		return viewItem(item, func(v []byte) error {
			h, err := decodeFileHead(sum, v)
			if err == nil {
				a.file(h, 1)
			}
			return err
		})
	})
	each(spaceZip, false, func(k []byte, _ *badger.Item) error {
		a.Zips++
		v, err := getValue(txn, append([]byte{spaceUse}, k[1:]...))
		if err != nil {
			return err
		}
		u, err := decodeUse(v)
		a.ZipBytes += u.size
		return err
	})
	var last module.Version
	each(spaceRecord, true, func(k []byte, item *badger.Item) error {
		n, err := parseRecordKey(k)
		if err != nil {
			return err
		}
		if n.Module != last {
			a.Releases++
			last = n.Module
		}
		return viewItem(item, func(v []byte) error {
			_, envelope, err := splitRecord(v)
			if err == nil {
				a.record(n.Kind, envelope, 1)
			}
			return err
		})
	})
	each(spaceConflict, false, func([]byte, *badger.Item) error { a.Conflicts++; return nil })
	return a, err
}
