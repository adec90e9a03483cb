package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/meshproxy/meshproxy/verify"
)

// Badger's settings, chosen by putting in 186 real module zips of 151 MB, reading
// them back, and looking files up; docs/benchmarks.md has the figures.
const (
	// memTableSize bounds what a restart after a crash replays, and the memory that
	// writing takes: 64 MiB instead of 16 writes no faster and takes 60 MB more.
	memTableSize = 16 << 20
	numMemtables = 4
	// valueThreshold: values from this size on go to the value log. Anything from
	// 256 bytes to 64 KiB measures the same; with all in tables reading is three
	// times slower, since compaction tears apart what was written together.
	valueThreshold = 1 << 10
	// valueLogFileSize is the unit in which space comes back.
	valueLogFileSize = 256 << 20
	// Without compression blocks are read from the page cache, where a cache of
	// Badger's own only costs: reading is a fifth faster without. Indices stay in
	// memory, about 7 bytes for each file that is held.
	blockCacheSize = 0
	indexCacheSize = 0
	// defaultReserve is room for a flush of all memtables and a compaction. Badger
	// writes through memory maps, where a full disk is a fatal signal and no error.
	defaultReserve = 512 << 20
)

func badgerOptions(dir string, o Options) badger.Options {
	// Streams are DEFLATE already and everything else is hashes and small
	// headers: compressing again costs time and saves nothing.
	b := badger.DefaultOptions(dir).
		WithCompression(options.None).
		WithMemTableSize(memTableSize).
		WithNumMemtables(numMemtables).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(valueLogFileSize).
		WithBlockCacheSize(blockCacheSize).
		WithIndexCacheSize(indexCacheSize).
		WithNumCompactors(2).
		WithNumGoroutines(2).
		WithDetectConflicts(false). // there is one writer
		WithMetricsEnabled(false).
		// A flipped bit in a table must be an error, not a wild offset.
		WithChecksumVerificationMode(options.OnBlockRead).
		WithLogger(badgerLog{o.Logger})
	if o.MemTable > 0 {
		b = b.WithMemTableSize(o.MemTable)
	}
	if o.tune != nil {
		b = o.tune(b)
	}
	return b
}

// tidy removes from Badger's directory what would keep it from opening, and holds
// nothing: logs of no length, which a crash between the creation of a log and its
// first extension leaves; and the registry of encryption keys, which is made again
// and of which a store without encryption needs none, whole or damaged.
func tidy(dir string) error {
	if err := os.Remove(filepath.Join(dir, badger.KeyRegistryFileName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".vlog" && ext != ".mem" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() > 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// badgerLog passes on Badger's warnings and errors; its chatter is for debugging.
type badgerLog struct{ l *slog.Logger }

func (b badgerLog) log(level slog.Level, format string, args []any) {
	if b.l.Enabled(context.Background(), level) {
		b.l.Log(context.Background(), level, "badger: "+strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

func (b badgerLog) Errorf(format string, args ...any)   { b.log(slog.LevelError, format, args) }
func (b badgerLog) Warningf(format string, args ...any) { b.log(slog.LevelWarn, format, args) }
func (b badgerLog) Infof(format string, args ...any)    { b.log(slog.LevelDebug, format, args) }
func (b badgerLog) Debugf(format string, args ...any)   { b.log(slog.LevelDebug, format, args) }

// sync makes all earlier transactions durable. Badger's own Sync leaves out
// memtables that were full and wait to be flushed, so their logs are synced here;
// a log that is gone by now was flushed to a table, which Badger syncs.
func (s *Store) sync() error {
	entries, err := os.ReadDir(s.data)
	if err != nil {
		return err
	}
	var names strings.Builder
	logs := 0
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if ext == ".mem" {
			logs++
		}
		if ext == ".mem" || ext == ".vlog" {
			names.WriteString(e.Name())
		}
	}
	if logs > 1 {
		for _, e := range entries {
			if filepath.Ext(e.Name()) == ".mem" {
				if err := syncFile(filepath.Join(s.data, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	if names.String() != s.synced { // a new file is durable with its directory
		if err := syncFile(s.data); err != nil {
			return err
		}
		s.synced = names.String()
	}
	return s.db.Sync()
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// room reports ErrFull when writing bytes more would leave less than the reserve.
func (s *Store) room(bytes int) error { return s.roomAbove(bytes, s.o.Reserve) }

// urgentRoom is room for what must be possible on a full disk: to open the store,
// to drop something, to give space back. It may use most of the reserve.
func (s *Store) urgentRoom(bytes int) error { return s.roomAbove(bytes, s.o.Reserve/4) }

func (s *Store) roomAbove(bytes int, reserve int64) error {
	free, err := freeSpace(s.dir)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	if free < int64(bytes)+reserve {
		return fmt.Errorf("%s: %d MiB left, %d MiB are kept in reserve; free some space or lower the size limit: %w",
			s.dir, free>>20, reserve>>20, ErrFull)
	}
	return nil
}

func getValue(txn *badger.Txn, k []byte) ([]byte, error) {
	var value []byte
	err := viewValue(txn, k, func(v []byte) error {
		value = append(make([]byte, 0, len(v)), v...)
		return nil
	})
	return value, err
}

// viewValue calls fn with the value, which is valid until fn returns. While fn
// runs it may hold a lock of Badger's: it must not wait for anybody.
func viewValue(txn *badger.Txn, k []byte, fn func([]byte) error) error {
	item, err := getItem(txn, k)
	if err != nil {
		return err
	}
	return viewItem(item, fn)
}

func getItem(txn *badger.Txn, k []byte) (item *badger.Item, err error) {
	err = guard(func() (err error) {
		item, err = txn.Get(k)
		return err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, damaged(describe(k), err)
	}
	return item, nil
}

func viewItem(item *badger.Item, fn func([]byte) error) error {
	var inner error
	err := item.Value(func(v []byte) error {
		defer mapped.touch(v)
		v, inner = unseal(item.Key(), v)
		if inner == nil {
			inner = fn(v)
		}
		return nil
	})
	if err != nil {
		return damaged(describe(item.Key()), err)
	}
	return inner
}

func hasKey(txn *badger.Txn, k []byte) (bool, error) {
	_, err := getItem(txn, k)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func getFile(txn *badger.Txn, sum verify.Digest) (h fileHead, err error) {
	err = viewValue(txn, digestKey(spaceFile, sum), func(v []byte) (err error) {
		h, err = decodeFileHead(sum, v)
		return err
	})
	if err != nil {
		h.raw.Sum = sum
	}
	return h, err
}

// scan calls fn with each key of a prefix in order, and its value if fn wants it.
func scan(txn *badger.Txn, prefix, from []byte, values bool, fn func(item *badger.Item) error) error {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = prefix, values
	o.PrefetchSize = 16
	it := txn.NewIterator(o)
	defer it.Close()
	if from == nil {
		from = prefix
	}
	err := guard(func() error { it.Seek(from); return nil })
	for err == nil && it.ValidForPrefix(prefix) {
		if err = fn(it.Item()); err == nil {
			err = guard(func() error { it.Next(); return nil })
		}
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// errStop ends a scan early.
var errStop = errors.New("stop")
