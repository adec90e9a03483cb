package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// Scanned is a zip that passed every check of ScanZip.
type Scanned = modzip.Scanned

// ScanZip checks a zip of size bytes that claims to be that of m and computes its
// listing; it writes nothing. An error about the zip is ErrBadFile. See
// modzip.Scan.
func ScanZip(ctx context.Context, r io.ReaderAt, size int64, m module.Version) (*Scanned, error) {
	return modzip.Scan(ctx, r, size, m)
}

// ScanZip is the function of the same name.
func (s *Store) ScanZip(ctx context.Context, r io.ReaderAt, size int64, m module.Version) (*Scanned, error) {
	return ScanZip(ctx, r, size, m)
}

// Staged is a zip on its way into the store. It holds a reference to each file of
// the listing, held or still missing, so that no GC takes them. It must be closed;
// Close gives the references back, unless the zip was committed. A crash does the
// same on the next Open. Its methods may be called at the same time.
type Staged struct {
	Module  module.Version
	Root    verify.Digest
	Listing verify.Listing

	s      *Store
	st     *stage
	files  []verify.File // with content, each sum once
	closed atomic.Bool
}

// stage is what all Staged of a root share.
type stage struct {
	turn    chan struct{} // holds one token: who has it may reference or release
	handles int           // guarded by Store.mu
}

// countBatch is how many files are referenced or released in one transaction.
const countBatch = 2000

// StageZip keeps the files of a scanned zip that the store lacks, as raw streams,
// and returns the zip ready to be committed.
func (s *Store) StageZip(ctx context.Context, z *Scanned) (*Staged, error) {
	st, err := s.stage(ctx, z.Module, z.Root, z.Listing, z.Listing.Encode())
	if err != nil {
		return nil, err
	}
	if err := st.fillFrom(ctx, z); err != nil {
		return nil, errors.Join(fmt.Errorf("stage zip of %s: %w", z.Module, err), st.Close())
	}
	return st, nil
}

// StageListing begins a zip whose files come one by one, from peers, through
// PutRaw. The listing must hash to root and obey all rules for names in a zip of
// m, else it is ErrBadFile.
func (s *Store) StageListing(ctx context.Context, m module.Version, root verify.Digest, listing []byte) (*Staged, error) {
	if got := verify.DigestOf(listing); got != root {
		return nil, fmt.Errorf("listing of %s: has digest %s, want %s: %w", m, got.H1(), root.H1(), ErrBadFile)
	}
	l, err := verify.ParseListing(listing)
	if err != nil {
		return nil, fmt.Errorf("listing of %s: %w: %w", m, err, ErrBadFile)
	}
	if err := modzip.CheckListing(m, l); err != nil {
		return nil, fmt.Errorf("listing of %s: %w", m, err)
	}
	return s.stage(ctx, m, root, l, listing)
}

func (s *Store) stage(ctx context.Context, m module.Version, root verify.Digest, l verify.Listing, text []byte) (*Staged, error) {
	st := &Staged{Module: m, Root: root, Listing: l, s: s, files: modzip.Sums(l)}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	s.mu.Lock()
	if st.st = s.stages[root]; st.st == nil {
		st.st = &stage{turn: make(chan struct{}, 1)}
		st.st.turn <- struct{}{}
		s.stages[root] = st.st
	}
	st.st.handles++
	s.mu.Unlock()
	err := s.inTurn(ctx, st.st, func() error { return s.reference(ctx, st, text) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("stage %s: %w", m, err), st.Close())
	}
	return st, nil
}

// inTurn runs fn while nobody else references or releases the files of the root.
func (s *Store) inTurn(ctx context.Context, st *stage, fn func() error) error {
	select {
	case <-st.turn:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return ErrClosed
	}
	defer func() { st.turn <- struct{}{} }()
	return fn()
}

// reference writes the listing and takes a reference to each file, in batches. An
// intent says how far it came; with the zip held, or the intent complete, there is
// nothing to do.
func (s *Store) reference(ctx context.Context, st *Staged, text []byte) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	done, err := s.intent(st.Root, len(st.files))
	if err != nil {
		return err
	}
	if s.isBad(st.Root) {
		if err := s.relist(ctx, st.Root, text); err != nil {
			return err
		}
	}
	if done == nil { // no intent and no zip
		if err := s.writeListing(ctx, st.Root, text); err != nil {
			return err
		}
		done = new(uint32)
	}
	for n := int(*done); n < len(st.files); {
		counted := n
		batch := st.files[n:min(n+countBatch, len(st.files))]
		n += len(batch)
		err := s.do(ctx, write{entries: len(batch) + 2, bytes: 72 * len(batch), apply: func(t *tx) error {
			if err := t.expectIntent(st.Root, counted); err != nil {
				return err
			}
			for _, f := range batch {
				h, err := t.file(f.Sum)
				if err != nil && !errors.Is(err, ErrNotFound) {
					return err
				}
				more := h
				more.refs++
				if err := t.setFile(h, more); err != nil {
					return err
				}
			}
			return t.setIntent(st.Root, n)
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// intent returns how many files of a root are referenced: all if the zip is held,
// nil if there is neither zip nor intent.
func (s *Store) intent(root verify.Digest, all int) (done *uint32, err error) {
	err = s.view(func(txn *badger.Txn) error {
		if held, err := hasKey(txn, digestKey(spaceZip, root)); held || err != nil {
			n := uint32(all)
			done = &n
			return err
		}
		n, err := getIntent(txn, root)
		if err == nil {
			done = &n
		}
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	})
	return done, err
}

func getIntent(txn *badger.Txn, root verify.Digest) (n uint32, err error) {
	v, err := getValue(txn, digestKey(spaceIntent, root))
	if err == nil && len(v) != 4 {
		err = damaged("intent", fmt.Errorf("%d bytes", len(v)))
	}
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(v), nil
}

func (t *tx) setIntent(root verify.Digest, n int) error {
	return t.set(digestKey(spaceIntent, root), binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// writeListing writes an intent with no reference, then the listing. The intent
// counts files only once the listing is whole.
func (s *Store) writeListing(ctx context.Context, root verify.Digest, text []byte) error {
	for i := uint32(0); i == 0 || i < chunks(int64(len(text))); i++ {
		part := text[int(i)*chunkSize : min(len(text), int(i+1)*chunkSize)]
		err := s.do(ctx, write{entries: 3, bytes: len(part) + 256, apply: func(t *tx) error {
			if i == 0 {
				if err := t.setIntent(root, 0); err != nil {
					return err
				}
			}
			return t.set(chunkKey(spaceListing, root, i), bytes.Clone(part))
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// relist writes the listing of a held zip again, whose listing was damaged.
func (s *Store) relist(ctx context.Context, root verify.Digest, text []byte) error {
	n := chunks(int64(len(text)))
	for i := uint32(0); i == 0 || i < n; i++ {
		part := text[int(i)*chunkSize : min(len(text), int(i+1)*chunkSize)]
		err := s.do(ctx, write{entries: 3, bytes: len(part) + 256, apply: func(t *tx) error {
			if i+1 >= n {
				if err := t.unmark(root); err != nil {
					return err
				}
			}
			return t.set(chunkKey(spaceListing, root, i), bytes.Clone(part))
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// fillFrom writes the files that are missing from a scanned zip, many small ones
// in a transaction.
func (st *Staged) fillFrom(ctx context.Context, z *Scanned) error {
	missing, err := st.Missing()
	if err != nil {
		return err
	}
	var files []RawFile
	var streams [][]byte
	bytes := 0
	flush := func() error {
		if len(files) == 0 {
			return nil
		}
		err := st.s.do(ctx, putFiles(files, streams))
		files, streams, bytes = nil, nil, 0
		return err
	}
	for _, f := range missing {
		stream, ok := z.Stream(f.Sum)
		if !ok {
			return fmt.Errorf("file %.300q: not in the zip", f.Name)
		}
		if stream.CompressedSize > chunkSize {
			if err := st.s.putScanned(ctx, z, stream); err != nil {
				return fmt.Errorf("file %.300q: %w", f.Name, err)
			}
			continue
		}
		b, err := readScanned(z, stream)
		if err != nil {
			return fmt.Errorf("file %.300q: %w", f.Name, err)
		}
		files, streams, bytes = append(files, stream.Raw), append(streams, b), bytes+len(b)
		if bytes > maxBatchBytes/2 || len(files) >= maxBatchEntries/10 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// readScanned reads a stream of at most one chunk, and checks that it is the one
// that the scan saw.
func readScanned(z *Scanned, stream modzip.Stream) ([]byte, error) {
	b := make([]byte, stream.CompressedSize, stream.CompressedSize+sealSize)
	if _, err := io.ReadFull(z.Open(stream), b); err != nil {
		return nil, err
	}
	if verify.DigestOf(b) != stream.RawSum {
		return nil, fmt.Errorf("the zip changed while it was read: %w", ErrBadFile)
	}
	return b, nil
}

// putScanned writes a large stream of a scanned zip.
func (s *Store) putScanned(ctx context.Context, z *Scanned, stream modzip.Stream) error {
	release, err := s.fill(ctx, stream.Sum)
	if err != nil {
		return err
	}
	defer release()
	if h, err := s.head(stream.Sum); err != nil || h.present() {
		return err
	}
	if err := stream.CheckRaw(z.Open(stream)); err != nil {
		return err
	}
	return s.putChunks(ctx, stream.Raw, readChunks(z.Open(stream), stream.Raw.CompressedSize))
}

// Missing lists the files of the zip that the store does not hold, each content
// once, by the first name that has it.
func (st *Staged) Missing() ([]verify.File, error) {
	var missing []verify.File
	err := st.s.view(func(txn *badger.Txn) error {
		for _, f := range st.files {
			h, err := st.s.recentFile(txn, f.Sum)
			if err != nil {
				return fmt.Errorf("file %.300q: %w", f.Name, err)
			}
			if !h.present() {
				missing = append(missing, f)
			}
		}
		return nil
	})
	return missing, err
}

// Size is the number of bytes that all files of the zip take unpacked. It is
// ErrIncomplete while files are missing.
func (st *Staged) Size() (int64, error) {
	var total int64
	err := st.s.view(func(txn *badger.Txn) error {
		sizes := make(map[verify.Digest]int64, len(st.files))
		for _, f := range st.files {
			h, err := st.s.recentFile(txn, f.Sum)
			if err == nil && !h.present() {
				err = ErrIncomplete
			}
			if err != nil {
				return fmt.Errorf("file %.300q: %w", f.Name, err)
			}
			sizes[f.Sum] = h.raw.Size
		}
		for _, f := range st.Listing.Files {
			total += sizes[f.Sum]
		}
		return nil
	})
	return total, err
}

// Close gives the references back, if this is the last handle to the root and the
// zip was not committed. It waits for the disk, not for a sync.
func (st *Staged) Close() error {
	if !st.closed.CompareAndSwap(false, true) {
		return nil
	}
	s := st.s
	if err := s.enter(); err != nil {
		return nil // the next Open gives them back
	}
	defer s.leave()
	err := s.inTurn(context.Background(), st.st, func() error {
		if !s.drop(st.st) {
			return nil
		}
		err := s.release(st.Root, st.files)
		s.forget(st.Root, st.st)
		return err
	})
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// drop gives up a handle and reports whether it was the last.
func (s *Store) drop(st *stage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.handles--
	return st.handles == 0
}

// forget removes a stage, unless somebody began to wait for its turn.
func (s *Store) forget(root verify.Digest, st *stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.handles == 0 && s.stages[root] == st {
		delete(s.stages, root)
	}
}
