package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/verify"
)

// PutRaw reads f.CompressedSize bytes of r and keeps them as the stream of f, if
// some staged or kept listing names the file; else it is ErrNotFound. The bytes
// are inflated and hashed first, and refused with ErrBadFile if they are not f;
// nothing of them is kept then. A file that is held already is not read from r.
// The file is durable when the zip that it belongs to is committed.
func (s *Store) PutRaw(ctx context.Context, f RawFile, r io.Reader) error {
	if err := f.Check(); err != nil {
		return err
	}
	wanted, err := s.wanted(f.Sum)
	if err != nil {
		return fmt.Errorf("put file %s: %w", f.Sum, err)
	}
	if !wanted {
		return nil
	}
	if f.CompressedSize > chunkSize {
		return s.putLarge(ctx, f, r)
	}
	stream := make([]byte, f.CompressedSize, f.CompressedSize+sealSize)
	if _, err := io.ReadFull(r, stream); err != nil {
		return fmt.Errorf("put file %s: read stream: %w", f.Sum, err)
	}
	if err := f.Verify(ctx, bytes.NewReader(stream)); err != nil {
		return err
	}
	return s.do(ctx, putFiles([]RawFile{f}, [][]byte{stream}))
}

// putFiles keeps checked streams of at most one chunk each.
func putFiles(files []RawFile, streams [][]byte) write {
	bytes := 0
	for _, b := range streams {
		bytes += len(b)
	}
	return write{entries: 5 * len(files), bytes: bytes + 128*len(files), apply: func(t *tx) error {
		for i, f := range files {
			h, err := t.file(f.Sum)
			if err != nil {
				return fmt.Errorf("put file %s: %w", f.Sum, err)
			}
			if h.present() {
				continue
			}
			num, err := t.present(h, f)
			if err != nil {
				return err
			}
			if f.CompressedSize == 0 {
				continue
			}
			if err := t.set(streamKey(num, 0), streams[i]); err != nil {
				return err
			}
		}
		return nil
	}}
}

// present marks a file whose header is h as held, with the stream f, and returns
// the number under which the stream must be written.
func (t *tx) present(h fileHead, f RawFile) (uint64, error) {
	if h.flags&flagDamaged != 0 {
		if err := t.healed(h, f); err != nil {
			return 0, err
		}
	}
	num := t.numbered(h)
	return num, t.setFile(h, fileHead{flags: flagPresent, refs: h.refs, raw: f, num: num})
}

// numbered is the number of a file's stream, a new one if it has none.
func (t *tx) numbered(h fileHead) uint64 {
	if h.num != 0 {
		return h.num
	}
	t.number++
	return t.number
}

// putLarge checks a stream and writes it chunk by chunk: from memory when it is good,
// or, if it is too large for that, while it is checked. A file of which there is
// something already is spooled to disk first. The
// header comes last, so that a stream that is not whole is never seen; what a
// crash leaves goes with the file's last reference or is overwritten.
func (s *Store) putLarge(ctx context.Context, f RawFile, r io.Reader) error {
	release, err := s.fill(ctx, f.Sum)
	if err != nil {
		return err
	}
	defer release()
	h, err := s.head(f.Sum)
	if err != nil || h.present() {
		return err
	}
	if err := s.room(int(2 * f.CompressedSize)); err != nil {
		return err
	}
	if f.CompressedSize <= maxSpoolFile && s.spooled.TryAcquire(f.CompressedSize) {
		defer s.spooled.Release(f.CompressedSize)
		m := &memorySpool{left: f.CompressedSize}
		if err := f.Verify(ctx, io.TeeReader(io.LimitReader(r, f.CompressedSize), m)); err != nil {
			return err
		}
		return s.putChunks(ctx, f, m.next)
	}
	if h.flags == 0 && h.num == 0 {
		return s.putStreamed(ctx, f, r)
	}
	tmp, err := os.CreateTemp(s.spool(), "file-")
	if err != nil {
		return fmt.Errorf("put file %s: %w", f.Sum, err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	in := bufio.NewReaderSize(io.TeeReader(io.LimitReader(r, f.CompressedSize), tmp), 64<<10)
	if err := f.Verify(ctx, in); err != nil {
		return err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return s.putChunks(ctx, f, readChunks(tmp, f.CompressedSize))
}

// readChunks reads a stream of left bytes for putChunks.
func readChunks(r io.Reader, left int64) (next func() ([]byte, error)) {
	return func() ([]byte, error) {
		n := min(chunkSize, left)
		left -= n
		chunk := make([]byte, n, n+sealSize)
		_, err := io.ReadFull(r, chunk)
		return chunk, err
	}
}

// Streams that wait in memory until they are checked: the disk is spared a copy of
// each. What is larger, or comes while so much waits, goes through a file.
const (
	maxSpoolFile  = 16 << 20 // bytes of one stream
	maxSpoolBytes = 32 << 20 // of all together
)

// memorySpool keeps a stream of a known size in chunks as they are written.
type memorySpool struct {
	left   int64 // bytes that no chunk has room for yet
	chunks [][]byte
}

// Write implements io.Writer.
func (m *memorySpool) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		last := len(m.chunks) - 1
		if last < 0 || len(m.chunks[last]) == chunkSize {
			if m.left == 0 {
				return 0, io.ErrShortWrite
			}
			n := min(chunkSize, m.left)
			m.left -= n
			m.chunks = append(m.chunks, make([]byte, 0, n+sealSize))
			last++
		}
		n := min(len(p), chunkSize-len(m.chunks[last]))
		m.chunks[last] = append(m.chunks[last], p[:n]...)
		p = p[n:]
	}
	return written, nil
}

// next hands over the next chunk.
func (m *memorySpool) next() ([]byte, error) {
	if len(m.chunks) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	chunk := m.chunks[0]
	m.chunks = m.chunks[1:]
	return chunk, nil
}

// putChunks writes a checked stream, of which next returns chunk by chunk, each with
// room for a seal; the caller holds fill.
func (s *Store) putChunks(ctx context.Context, f RawFile, next func() ([]byte, error)) error {
	for i := uint32(0); i < chunks(f.CompressedSize); i++ {
		chunk, err := next()
		if err != nil {
			return fmt.Errorf("put file %s: read stream: %w", f.Sum, err)
		}
		last := i+1 == chunks(f.CompressedSize)
		err = s.do(ctx, write{entries: 6, bytes: len(chunk) + 256, apply: func(t *tx) error {
			h, err := t.file(f.Sum)
			if err != nil {
				return fmt.Errorf("put file %s: %w", f.Sum, err) // its last reference went meanwhile
			}
			if h.present() {
				return nil
			}
			if last {
				if h.num, err = t.present(h, f); err != nil {
					return err
				}
			} else if h.num == 0 {
				named := h
				named.num = t.numbered(h)
				if err := t.setFile(h, named); err != nil {
					return err
				}
				h = named
			}
			return t.set(streamKey(h.num, i), chunk)
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func chunks(size int64) uint32 { return uint32((size + chunkSize - 1) / chunkSize) }

// fill makes the caller the only one who writes the chunks of a file, since two
// streams of the same content may differ.
func (s *Store) fill(ctx context.Context, sum verify.Digest) (release func(), err error) {
	for {
		s.mu.Lock()
		busy, ok := s.filling[sum]
		if !ok {
			done := make(chan struct{})
			s.filling[sum] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.filling, sum)
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.closing:
			return nil, ErrClosed
		}
	}
}

func (s *Store) head(sum verify.Digest) (h fileHead, err error) {
	err = s.view(func(txn *badger.Txn) error {
		h, err = getFile(txn, sum)
		return err
	})
	return h, err
}

// HasFile reports whether the store holds a file's stream.
func (s *Store) HasFile(sum verify.Digest) bool {
	h, err := s.head(sum)
	return err == nil && h.present()
}

// OpenRaw returns a file's stream as the store keeps it, for sending to a peer.
// It must be closed. Reads that find damage return ErrDamaged.
func (s *Store) OpenRaw(sum verify.Digest) (RawFile, io.ReadCloser, error) {
	snap, err := s.snapshot()
	if err != nil {
		return RawFile{}, nil, err
	}
	h, err := snap.head(sum)
	if err == nil && !h.present() {
		err = ErrNotFound
	}
	if err != nil {
		snap.close()
		return RawFile{}, nil, fmt.Errorf("file %s: %w", sum, err)
	}
	f := h.stream()
	r := &rawReader{snap, chunkReader{f: f, buf: *chunkBuffers.Get().(*[]byte)}}
	r.chunk = func(i uint32, buf []byte) ([]byte, error) { return snap.chunk(f, i, buf) }
	return h.raw, r, nil
}

func (p *snapshot) head(sum verify.Digest) (fileHead, error) {
	if err := p.s.enter(); err != nil {
		return fileHead{}, err
	}
	defer p.s.leave()
	return getFile(p.txn, sum)
}

// rawReader is what OpenRaw returns.
type rawReader struct {
	snap *snapshot
	chunkReader
}

func (r *rawReader) Close() error {
	r.snap.close()
	if r.buf != nil {
		buf := r.buf[:0]
		r.buf, r.left = nil, nil
		chunkBuffers.Put(&buf)
	}
	return nil
}

// chunkBuffers is memory of closed readers for the next ones: most streams are small,
// and an office reads thousands in a second.
var chunkBuffers = sync.Pool{New: func() any { return new([]byte) }}

// chunkReader reads a stream chunk by chunk.
type chunkReader struct {
	f     stream
	chunk func(i uint32, buf []byte) ([]byte, error) // may use buf for what it returns
	next  uint32
	buf   []byte
	left  []byte
}

// newChunkReader reads inside a transaction, and leaves it to the caller to do
// something about damage.
func newChunkReader(txn *badger.Txn, f stream) *chunkReader {
	return &chunkReader{f: f, chunk: func(i uint32, buf []byte) ([]byte, error) { return readChunk(txn, f, i, buf) }}
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// fill reads the next chunk if nothing is left of the last one.
func (r *chunkReader) fill() (err error) {
	for len(r.left) == 0 {
		if r.next == chunks(r.f.CompressedSize) {
			return io.EOF
		}
		if r.buf, err = r.chunk(r.next, r.buf); err != nil {
			return err
		}
		r.left = r.buf
		r.next++
	}
	return nil
}

// WriteTo implements io.WriterTo.
func (r *chunkReader) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if err := r.fill(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		n, err := w.Write(r.left)
		total, r.left = total+int64(n), r.left[n:]
		if err != nil {
			return total, err
		}
	}
}

// chunk reads chunk i of a file into buf, which it may replace. A chunk that is
// missing, of another length, or does not match its checksum puts the file into
// quarantine.
func (p *snapshot) chunk(f stream, i uint32, buf []byte) ([]byte, error) {
	if err := p.s.enter(); err != nil {
		return buf, err
	}
	defer p.s.leave()
	buf, err := readChunk(p.txn, f, i, buf)
	if err != nil {
		err = p.s.suspect(f.Sum, err)
	}
	return buf, err
}

func readChunk(txn *badger.Txn, f stream, i uint32, buf []byte) ([]byte, error) {
	want := min(chunkSize, f.CompressedSize-int64(i)*chunkSize)
	err := viewValue(txn, streamKey(f.num, i), func(v []byte) error {
		if int64(len(v)) != want {
			return fmt.Errorf("chunk %d has %d bytes, want %d: %w", i, len(v), want, ErrDamaged)
		}
		buf = append(buf[:0], v...)
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("chunk %d is missing: %w", i, ErrDamaged)
	}
	if err != nil {
		err = fmt.Errorf("file %s: %w", f.Sum, err)
	}
	return buf, err
}

// deleteFile removes the chunks of a file whose header is gone, also those of a
// stream that was never whole.
func (t *tx) deleteFile(h fileHead) error {
	switch {
	case h.num == 0:
		return nil
	case h.present() && h.raw.CompressedSize <= chunkSize:
		return t.del(streamKey(h.num, 0))
	}
	return t.deleteChunks(h.num, 0)
}

// deleteChunks removes the chunks of a stream from number from on.
func (t *tx) deleteChunks(num uint64, from uint32) error {
	return scan(t.txn, streamPrefix(num), streamKey(num, from), false, func(item *badger.Item) error {
		return t.del(item.KeyCopy(nil))
	})
}
