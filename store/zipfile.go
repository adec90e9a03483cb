package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// zipIndex is all that is needed to serve any byte of a zip.
type zipIndex struct {
	epoch    uint64
	files    []verify.File // with content, each sum once
	streams  []stream      // of each entry of the zip
	skeleton *modzip.Skeleton
	tag      verify.Digest // of the layout: names the bytes of the zip
	written  atomic.Int32  // how often by WriteTo, before
}

func newZipIndex(l verify.Listing, files []verify.File, lay layout) (*zipIndex, error) {
	bySum := make(map[verify.Digest]stream, len(files))
	for _, f := range lay.files {
		bySum[f.Sum] = f
	}
	entries := make([]modzip.Entry, len(l.Files))
	z := &zipIndex{epoch: lay.epoch, files: files, streams: make([]stream, len(l.Files))}
	for i, f := range l.Files {
		if !modzip.IsDir(f.Name) {
			z.streams[i] = bySum[f.Sum]
		}
		entries[i] = modzip.Entry{Name: f.Name, Raw: z.streams[i].RawFile}
	}
	var err error
	z.skeleton, err = modzip.NewSkeleton(entries)
	// Epoch and stream numbers are this node's, and change without the bytes
	// changing: they are not part of the tag.
	tagged := layout{files: make([]stream, len(lay.files))}
	for i, f := range lay.files {
		tagged.files[i].RawFile = f.RawFile
	}
	z.tag = verify.DigestOf(tagged.encode())
	return z, err
}

func (z *zipIndex) weight() int64 {
	const perFile, perStream = 64, 80
	names := 0
	for _, f := range z.files {
		names += len(f.Name)
	}
	return z.skeleton.Weight() + int64(perFile*len(z.files)+perStream*len(z.streams)+names)
}

// ZipFile is a zip of the store, put together as it is read: an io.ReadSeeker, an
// io.ReaderAt, and an io.WriterTo. Its bytes never change. It reads from a snapshot,
// or from the whole zip where that is at hand, so that an eviction does not end it,
// and must be closed. Read, Seek and WriteTo are for one goroutine; ReadAt is for
// any number.
type ZipFile struct {
	s     *Store
	snap  *snapshot // nil if whole is set
	whole *wholeZip // nil: it is put together
	root  verify.Digest
	index *zipIndex
	pos   int64
	win   *window // what was read last, and ahead; nil before Read
}

// OpenZip opens the zip whose listing has the digest root. It is ErrNotFound when
// the store does not hold all of it, and ErrDamaged when a file of it is in
// quarantine.
func (s *Store) OpenZip(root verify.Digest) (*ZipFile, error) {
	if z := s.openWhole(root); z != nil {
		return z, nil
	}
	dropped := s.dropped.Load() // before the snapshot: what is dropped later is not remembered
	snap, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	index, err := s.zipIndex(snap, root, dropped)
	if err == nil && (s.isBad(root) || s.anyBad(index.files)) {
		err = fmt.Errorf("a file of it is in quarantine: %w", ErrDamaged)
	}
	if err != nil {
		snap.close()
		return nil, fmt.Errorf("zip %s: %w", root.H1(), err)
	}
	s.touch(root)
	return &ZipFile{s: s, snap: snap, root: root, index: index}, nil
}

// zipIndex reads a layout, or makes it again when a file has been healed with
// another encoding since it was written. dropped is what s.dropped was before the
// snapshot was made.
func (s *Store) zipIndex(snap *snapshot, root verify.Digest, dropped int64) (*zipIndex, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	k := digestKey(spaceZip, root)
	held, err := hasKey(snap.txn, k)
	if err != nil {
		return nil, err
	}
	if !held {
		return nil, ErrNotFound
	}
	epoch, err := getEpoch(snap.txn)
	if err != nil {
		return nil, err
	}
	// An index that was made after the zip had been dropped and come again names
	// streams that this snapshot does not have.
	if z, ok := s.cache.zips.get(root); ok && z.epoch == epoch && s.dropped.Load() == dropped {
		return z, nil
	}
	text, err := getListing(snap.txn, root)
	if errors.Is(err, ErrNotFound) {
		err = damaged("zip", errors.New("its listing is missing"))
	}
	if err != nil {
		return nil, s.suspectZip(root, err)
	}
	files := modzip.Sums(text)
	v, err := getValue(snap.txn, k)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	l, err := decodeLayout(files, v)
	stale := err != nil || l.epoch != epoch
	if stale { // damage of a layout costs nothing: it repeats what the files say
		if l, err = makeLayout(snap.txn, files, getFile); err != nil {
			return nil, err
		}
	}
	z, err := newZipIndex(text, files, l)
	if err != nil {
		return nil, err
	}
	if stale {
		s.relayout(root, l, z.skeleton.Size())
	}
	s.rememberZip(root, z, dropped)
	return z, nil
}

// relayout writes a layout that was made again, and the size that follows from
// it; if that fails it is made again.
func (s *Store) relayout(root verify.Digest, l layout, size int64) {
	b := l.encode()
	err := s.do(context.Background(), write{entries: 3, bytes: len(b) + 256, apply: func(t *tx) error {
		held, err := t.has(digestKey(spaceZip, root))
		if err != nil || !held || t.epoch != l.epoch {
			return err
		}
		v, err := t.get(digestKey(spaceUse, root))
		if err != nil {
			return err
		}
		u, err := decodeUse(v)
		if err != nil {
			return err
		}
		t.acct.ZipBytes += size - u.size
		u.size = size
		if err := t.set(digestKey(spaceUse, root), u.encode()); err != nil {
			return err
		}
		return t.set(digestKey(spaceZip, root), b)
	}})
	if err != nil {
		s.o.Logger.Warn("layout of a zip could not be written", "root", root.H1(), "error", err)
	}
}

// Size is the length of the zip in bytes.
func (z *ZipFile) Size() int64 { return z.index.skeleton.Size() }

// Root is the h1 of the zip.
func (z *ZipFile) Root() verify.Digest { return z.root }

// ETag names the bytes of the zip: root and encoding of the files. It has no
// quotes.
func (z *ZipFile) ETag() string {
	const enough = 16
	return hex.EncodeToString(z.root[:enough]) + hex.EncodeToString(z.index.tag[:enough])
}

// Close ends the use of the snapshot.
func (z *ZipFile) Close() error {
	if z.win != nil {
		z.win.free()
		z.win = nil
	}
	if z.whole != nil {
		return z.whole.close()
	}
	z.snap.close()
	return nil
}

// Read reads on from where the last Read or Seek ended. After ErrDamaged the zip
// must not be read on: what came before is good, what follows is not known.
func (z *ZipFile) Read(p []byte) (int, error) {
	if z.whole != nil {
		n, err := z.whole.readAt(p, z.pos)
		z.pos += int64(n)
		return n, err
	}
	if z.win == nil {
		z.win = newWindow()
	}
	n, err := z.readAt(p, z.pos, z.win, true)
	z.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt reads as io.ReaderAt says.
func (z *ZipFile) ReadAt(p []byte, off int64) (int, error) {
	if z.whole != nil {
		return z.whole.readAt(p, off)
	}
	w := newWindow()
	defer w.free()
	return z.readAt(p, off, w, len(p) > windowBytes)
}

// Seek sets the offset of the next Read.
func (z *ZipFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += z.pos
	case io.SeekEnd:
		offset += z.Size()
	default:
		return 0, fmt.Errorf("seek: whence %d: %w", whence, fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek: before the start: %w", fs.ErrInvalid)
	}
	z.pos = offset
	return offset, nil
}

func (z *ZipFile) readAt(p []byte, off int64, w *window, ahead bool) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read: before the start: %w", fs.ErrInvalid)
	}
	for n < len(p) {
		if off+int64(n) >= z.Size() {
			return n, io.EOF
		}
		part, err := z.at(off+int64(n), w, ahead)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], part)
	}
	return n, nil
}

// at returns bytes of the zip from offset on, as many as are at hand, valid until
// the next call with w. With ahead it reads what follows too.
func (z *ZipFile) at(off int64, w *window, ahead bool) ([]byte, error) {
	if part := w.get(off); len(part) > 0 {
		return part, nil
	}
	seg := z.index.skeleton.Find(off)
	small := seg.Entry < len(z.index.streams) && z.index.streams[seg.Entry].CompressedSize <= chunkSize
	if ahead && small {
		if err := w.ahead(z, seg); err != nil {
			return nil, fmt.Errorf("zip %s: %w", z.root.H1(), err)
		}
		if part := w.get(off); len(part) > 0 {
			return part, nil
		}
	}
	within := off - seg.Offset
	if seg.Header != nil {
		return seg.Header[within:], nil
	}
	if err := w.chunk(z, seg.Entry, seg.Offset, uint32(within/chunkSize)); err != nil {
		return nil, fmt.Errorf("zip %s: %w", z.root.H1(), z.suspect(z.index.streams[seg.Entry].Sum, err))
	}
	return w.get(off), nil
}

// suspect puts the whole zip into quarantine when a file cannot be: its header is
// lost, as happens when a table of the database is damaged.
func (z *ZipFile) suspect(sum verify.Digest, err error) error {
	if !errors.Is(err, ErrDamaged) || z.s.isBad(sum) {
		return err
	}
	if _, herr := z.s.head(sum); errors.Is(herr, ErrNotFound) || errors.Is(herr, ErrDamaged) {
		return errors.Join(err, z.s.quarantineZip(z.root, "a file of it is lost: "+sum.Hex()))
	}
	return err
}

// HasZip reports whether the store holds all of a zip, and no file of it is in
// quarantine.
func (s *Store) HasZip(root verify.Digest) bool {
	ok := false
	err := s.view(func(txn *badger.Txn) (err error) {
		if ok, err = hasKey(txn, digestKey(spaceZip, root)); err != nil || !ok || !s.quarantined() {
			return err
		}
		l, err := getListing(txn, root)
		ok = err == nil && !s.isBad(root) && !s.anyBad(modzip.Sums(l))
		return err
	})
	return err == nil && ok
}

// Listing returns the listing with this digest, of a zip that is held or staged.
func (s *Store) Listing(root verify.Digest) (text []byte, err error) {
	err = s.view(func(txn *badger.Txn) error {
		text, err = getListingText(txn, root)
		return err
	})
	return text, err
}

// WriteTo writes the zip to w while its files arrive, in order: for each that the
// store lacks it calls wait, which must return when PutRaw has brought it. What it
// writes is what OpenZip will give for the same streams.
func (st *Staged) WriteTo(ctx context.Context, w io.Writer, wait func(context.Context, verify.File) error) error {
	zw := modzip.NewWriter(w)
	for _, f := range st.Listing.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := st.writeFile(ctx, zw, f, wait); err != nil {
			return fmt.Errorf("zip of %s: file %.300q: %w", st.Module, f.Name, err)
		}
	}
	return zw.Close()
}

func (st *Staged) writeFile(ctx context.Context, zw *modzip.Writer, f verify.File, wait func(context.Context, verify.File) error) error {
	if modzip.IsDir(f.Name) {
		_, err := zw.Add(modzip.Entry{Name: f.Name})
		return err
	}
	raw, r, err := st.s.OpenRaw(f.Sum)
	if errors.Is(err, ErrNotFound) && wait != nil {
		if err := zw.Flush(); err != nil {
			return err
		}
		if err := wait(ctx, f); err != nil {
			return err
		}
		raw, r, err = st.s.OpenRaw(f.Sum)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	dst, err := zw.Add(modzip.Entry{Name: f.Name, Raw: raw})
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, r)
	return err
}
