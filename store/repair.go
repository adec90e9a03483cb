package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/verify"
)

// repairMarker is the file that says that Badger's tables are damaged, and why.
// Values can be healed one by one; tables cannot, and may hide what is newest.
const repairMarker = "needs-repair"

// RepairReport says what Repair found.
type RepairReport struct {
	Copied       int64           // keys that could be read
	LostZips     []verify.Digest // zips whose listing is gone: to be fetched again
	LostRecords  []string        // records that are damaged: to be fetched again
	DamagedFiles int64           // files in quarantine, to be healed one by one
	Fixed        int64           // references, listings and chunks put right
}

// needsRepair notes that the next Open should repair the store first.
func (s *Store) needsRepair(reason string) {
	s.o.Logger.Error("store needs a repair, which the next start will do", "reason", reason)
	if err := os.WriteFile(filepath.Join(s.dir, repairMarker), []byte(reason+"\n"), 0o600); err != nil {
		s.o.Logger.Error("repair could not be asked for", "error", err)
	}
}

// Repair makes a database out of all that can still be read in dir, puts right
// what does not fit together, and takes the damaged one's place. It needs as much
// free space as the store takes (else ErrFull). It may be interrupted: dir then
// is as it was, or repaired. No other process may have the store open (ErrLocked).
func Repair(ctx context.Context, dir string, o Options, progress func(Progress)) (*RepairReport, error) {
	o.defaults()
	if progress == nil {
		progress = func(Progress) {}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	report, err := repair(ctx, dir, o, progress)
	if err != nil {
		return report, fmt.Errorf("repair %s: %w", dir, err)
	}
	return report, nil
}

// repair is Repair for whoever holds the lock.
func repair(ctx context.Context, dir string, o Options, progress func(Progress)) (*RepairReport, error) {
	old, fresh := filepath.Join(dir, "badger"), filepath.Join(dir, "badger.new")
	if err := finishSwap(dir); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(fresh); err != nil {
		return nil, err
	}
	s := newStore(dir, fresh, o)
	if err := s.roomAbove(0, diskUsage(old)+o.Reserve/4); err != nil {
		return nil, err
	}
	report := &RepairReport{}
	if err := salvage(ctx, old, fresh, o, report, progress); err != nil {
		return report, errors.Join(err, os.RemoveAll(fresh))
	}
	if err := reconcile(ctx, s, report); err != nil {
		return report, errors.Join(err, os.RemoveAll(fresh))
	}
	if err := swap(dir); err != nil {
		return report, err
	}
	o.Logger.Warn("store was repaired", "keys", report.Copied, "lost zips", len(report.LostZips),
		"lost records", len(report.LostRecords), "damaged files", report.DamagedFiles, "fixed", report.Fixed)
	return report, nil
}

// swap puts the new database in place of the old. A crash in between leaves no
// database under its own name, and finishSwap goes on.
func swap(dir string) error {
	current, fresh, old := filepath.Join(dir, "badger"), filepath.Join(dir, "badger.new"), filepath.Join(dir, "badger.old")
	for _, step := range []func() error{
		func() error { return syncFile(fresh) },
		func() error { return os.RemoveAll(old) },
		func() error { return os.Rename(current, old) },
		func() error { return syncFile(dir) },
		func() error { return finishSwap(dir) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// finishSwap ends a swap that a crash interrupted, or does nothing.
func finishSwap(dir string) error {
	current, fresh, old := filepath.Join(dir, "badger"), filepath.Join(dir, "badger.new"), filepath.Join(dir, "badger.old")
	if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(current); errors.Is(err, fs.ErrNotExist) {
		// The new one is whole: the old one is moved away only then.
		if err := os.Rename(fresh, current); err != nil {
			return err
		}
		if err := syncFile(dir); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, repairMarker)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(old)
}

// repairFirst repairs a store that asks for it. Without the space for that it is
// opened as it is: most of it can still be served.
func (s *Store) repairFirst(ctx context.Context) error {
	if err := finishSwap(s.dir); err != nil {
		return err
	}
	reason, err := os.ReadFile(filepath.Join(s.dir, repairMarker))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.o.Logger.Warn("store is repaired", "reason", string(bytes.TrimSpace(reason)))
	_, err = repair(ctx, s.dir, s.o, func(Progress) {})
	if errors.Is(err, ErrFull) {
		s.o.Logger.Error("store cannot be repaired and is opened as it is", "error", err)
		return nil
	}
	return err
}

// salvage copies all that can be read, and is what was written, to a new database.
func salvage(ctx context.Context, from, to string, o Options, report *RepairReport, progress func(Progress)) (err error) {
	if err := tidy(from); err != nil {
		return err
	}
	src, err := badger.Open(badgerOptions(from, o))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if err := refuseNewer(src, from); err != nil {
		return err
	}
	dst, err := badger.Open(badgerOptions(to, o))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	batch := dst.NewWriteBatch()
	defer batch.Cancel()
	txn := src.NewTransaction(false)
	defer txn.Discard()
	started := time.Now()
	err = scan(txn, nil, []byte{0}, false, func(item *badger.Item) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := item.KeyCopy(nil)
		var sealed []byte
		if viewItem(item, func(v []byte) error { sealed = seal(k, bytes.Clone(v)); return nil }) != nil || k[0] == spaceFiller {
			return nil // what it was is found out by what lacks it
		}
		report.Copied++
		if now := time.Now(); now.Sub(started) > time.Second {
			started = now
			progress(Progress{Done: report.Copied, Current: describe(k)})
		}
		return batch.Set(k, sealed)
	})
	if err != nil {
		return err
	}
	if err := ensureSchema(batch); err != nil {
		return err
	}
	return errors.Join(batch.Flush(), dst.Sync())
}
