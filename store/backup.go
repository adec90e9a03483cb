package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/libp2p/go-msgio"

	"github.com/meshproxy/meshproxy/verify"
)

// A backup is a gzip file, whose checksum and length tell whether it is whole. It
// holds messages, each after its length as a varint: a header, then pages of keys
// and values as they stand in the database, with their checksums, and at the end a
// page without any that counts them. Streams are DEFLATE already, so gzip only
// stores.
const (
	backupFormat = "meshproxy backup"
	maxPage      = verify.MaxRecord + 4<<20 // bytes of a message: the largest value and what a page has beside it
	pageBytes    = 1 << 20                  // after which a page is full
	pagePairs    = 4096
)

type backupHeader struct {
	Format string `cbor:"1,keyasint"`
	Schema uint32 `cbor:"2,keyasint"`
}

type backupPage struct {
	Keys   [][]byte `cbor:"1,keyasint,omitempty"`
	Values [][]byte `cbor:"2,keyasint,omitempty"`
	Total  int64    `cbor:"3,keyasint,omitempty"` // on the last page: pairs in all
}

var pageMode = must(cbor.DecOptions{
	DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
	MaxNestedLevels: 4, MaxArrayElements: pagePairs, MaxMapPairs: 16,
}.DecMode())

// Backup writes the store, as it is at this moment, to w, while it goes on being
// used. Damaged values are left out and named in the error, which is then an
// ErrDamaged; the backup is whole otherwise.
func (s *Store) Backup(ctx context.Context, w io.Writer, progress func(Progress)) error {
	if progress == nil {
		progress = func(Progress) {}
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	defer snap.close()
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	z, err := gzip.NewWriterLevel(w, gzip.NoCompression)
	if err != nil {
		return err
	}
	b := backup{ctx: ctx, out: msgio.NewVarintWriter(z), progress: progress}
	if err := b.run(snap.txn); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return errors.Join(b.damaged...)
}

type backup struct {
	ctx      context.Context
	out      msgio.Writer
	progress func(Progress)
	p        Progress
	page     backupPage
	size     int
	damaged  []error
}

func (b *backup) run(txn *badger.Txn) error {
	if err := b.message(backupHeader{backupFormat, schema}); err != nil {
		return err
	}
	err := scan(txn, nil, []byte{0}, false, func(item *badger.Item) error {
		if item.Key()[0] == spaceFiller {
			return nil
		}
		return b.add(item)
	})
	if err == nil {
		err = b.flush()
	}
	if err != nil {
		return err
	}
	return b.message(backupPage{Total: b.p.Done})
}

func (b *backup) add(item *badger.Item) error {
	k := item.KeyCopy(nil)
	err := viewItem(item, func(v []byte) error {
		b.page.Values = append(b.page.Values, seal(k, append(make([]byte, 0, len(v)+sealSize), v...)))
		return nil
	})
	if err != nil {
		if len(b.damaged) < maxProblems {
			b.damaged = append(b.damaged, err)
		}
		return nil
	}
	b.page.Keys = append(b.page.Keys, k)
	b.size += len(k) + int(item.ValueSize())
	b.p.Done++
	b.p.Bytes += int64(len(k)) + item.ValueSize()
	if b.size >= pageBytes || len(b.page.Keys) == pagePairs {
		return b.flush()
	}
	return nil
}

func (b *backup) flush() error {
	if len(b.page.Keys) == 0 {
		return b.ctx.Err()
	}
	err := b.message(b.page)
	b.page, b.size = backupPage{}, 0
	b.progress(b.p)
	return errors.Join(err, b.ctx.Err())
}

func (b *backup) message(v any) error {
	data, err := encMode.Marshal(v)
	if err != nil {
		return err
	}
	return b.out.WriteMsg(data)
}

// Restore makes a store in dir, which must not exist or be empty, from a backup.
// The store is put together beside dir, checked as a whole with all contents, and
// only then gets its name: dir is there whole or not at all.
func Restore(ctx context.Context, dir string, r io.Reader, o Options, progress func(Progress)) error {
	if progress == nil {
		progress = func(Progress) {}
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("restore: %s is not empty; name another directory: %w", dir, fs.ErrExist)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".restore-")
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(tmp)
	o.defaults()
	for _, step := range []func() error{
		func() error { return load(ctx, filepath.Join(tmp, "badger"), r, o, progress) },
		func() error { return checkRestored(ctx, tmp, o, progress) },
		func() error { return syncFile(tmp) },
		func() error {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return os.Rename(tmp, dir)
		},
		func() error { return syncFile(filepath.Dir(dir)) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("restore %s: %w", dir, err)
		}
	}
	return nil
}

// load writes a backup into a new database.
func load(ctx context.Context, dir string, r io.Reader, o Options, progress func(Progress)) (err error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("not a backup: %w", err)
	}
	in := msgio.NewVarintReaderSize(z, maxPage)
	var h backupHeader
	if err := readMessage(in, &h); err != nil || h.Format != backupFormat {
		return fmt.Errorf("not a backup: header %.80q: %w", h.Format, errors.Join(err, ErrBadFile))
	}
	if h.Schema > schema {
		return fmt.Errorf("backup of schema %d, this program knows %d: %w", h.Schema, schema, ErrNewer)
	}
	db, err := badger.Open(badgerOptions(dir, o))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := loadPages(ctx, db, in, progress); err != nil {
		return err
	}
	// The checksum of a gzip file is looked at when its end is read.
	if n, err := io.Copy(io.Discard, z); err != nil || n > 0 {
		return fmt.Errorf("%d bytes behind the end: %w", n, errors.Join(err, ErrBadFile))
	}
	return db.Sync()
}

func loadPages(ctx context.Context, db *badger.DB, in msgio.Reader, progress func(Progress)) error {
	batch := db.NewWriteBatch()
	defer batch.Cancel()
	var p Progress
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var page backupPage
		if err := readMessage(in, &page); err != nil {
			return fmt.Errorf("truncated: %w", err)
		}
		if len(page.Keys) != len(page.Values) {
			return fmt.Errorf("page of %d keys and %d values: %w", len(page.Keys), len(page.Values), ErrBadFile)
		}
		if len(page.Keys) == 0 {
			if page.Total != p.Done {
				return fmt.Errorf("%d values, want %d: %w", p.Done, page.Total, ErrBadFile)
			}
			return batch.Flush()
		}
		for i, k := range page.Keys {
			if len(k) == 0 || len(k) > 2*maxKey {
				return fmt.Errorf("key of %d bytes: %w", len(k), ErrBadFile)
			}
			if _, err := unseal(k, page.Values[i]); err != nil {
				return err
			}
			if err := batch.Set(k, page.Values[i]); err != nil {
				return err
			}
			p.Done++
			p.Bytes += int64(len(k) + len(page.Values[i]))
		}
		progress(p)
	}
}

func readMessage(in msgio.Reader, v any) error {
	b, err := in.ReadMsg()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	defer in.ReleaseMsg(b)
	return pageMode.Unmarshal(b, v)
}

// checkRestored opens the new store once, which also gives back what was staged
// when the backup was made, and checks everything.
func checkRestored(ctx context.Context, dir string, o Options, progress func(Progress)) (err error) {
	o.MayDrop, o.Heal = nil, nil
	s, err := Open(dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	problems, err := s.Check(ctx, true, progress)
	if err == nil && len(problems) > 0 {
		err = fmt.Errorf("the backup has %d problems, the first: %s: %w", len(problems), problems[0], ErrDamaged)
	}
	return err
}
