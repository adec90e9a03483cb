package modzip

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"

	"github.com/meshproxy/meshproxy/verify"
)

// ErrBadFile means that bytes are not the file, or the zip, that they claim to
// be. Such bytes are never kept.
var ErrBadFile = errors.New("bad file")

// Raw describes a file's stream as it stands in a zip. The content is named by
// its SHA-256; the stream is one of many encodings of that content.
type Raw struct {
	Sum            verify.Digest // SHA-256 of the content
	Method         uint16        // zip.Store or zip.Deflate
	CRC32          uint32        // IEEE, of the content
	CompressedSize int64         // bytes of the stream
	Size           int64         // bytes of the content
}

// Check reports whether the description is possible: a method of the two that
// module zips use and sizes within verify.MaxZip. It must be called before any
// size is used for an allocation.
func (f Raw) Check() error {
	switch {
	case f.Method != zip.Store && f.Method != zip.Deflate:
		return fmt.Errorf("file %s: compression method %d: want stored or DEFLATE: %w", f.Sum, f.Method, ErrBadFile)
	case f.CompressedSize < 0 || f.CompressedSize > verify.MaxZip:
		return fmt.Errorf("file %s: stream of %d bytes: at most %d allowed: %w", f.Sum, f.CompressedSize, int64(verify.MaxZip), ErrBadFile)
	case f.Size < 0 || f.Size > verify.MaxZip:
		return fmt.Errorf("file %s: %d bytes: at most %d allowed: %w", f.Sum, f.Size, int64(verify.MaxZip), ErrBadFile)
	case f.Method == zip.Store && f.CompressedSize != f.Size:
		return fmt.Errorf("file %s: stored in %d bytes but %d bytes long: %w", f.Sum, f.CompressedSize, f.Size, ErrBadFile)
	}
	return nil
}

// Verify reads f.CompressedSize bytes of r as the stream of f and reports whether
// they are exactly that: all of the stream is used, and the content has the size,
// CRC-32 and SHA-256 of f. It reads no byte beyond and keeps at most a buffer. An
// error about the bytes is an ErrBadFile; an error of r is returned as it is.
func (f Raw) Verify(ctx context.Context, r io.Reader) error { return f.verify(ctx, r, io.Discard) }

// verify is Verify that writes the content to w, before it is known to be good.
func (f Raw) verify(ctx context.Context, r io.Reader, w io.Writer) error {
	got, err := measure(ctx, f, r, w)
	if err != nil {
		return err
	}
	if got != f.Sum {
		return fmt.Errorf("file %s: content has SHA-256 %s: %w", f.Sum, got, ErrBadFile)
	}
	return nil
}

const copyBuffer = 64 << 10

type inflater struct {
	in  *bufio.Reader
	out io.ReadCloser // of flate.NewReader
	buf []byte
}

var inflaters = sync.Pool{New: func() any {
	return &inflater{
		in:  bufio.NewReaderSize(nil, copyBuffer),
		out: flate.NewReader(nil),
		buf: make([]byte, copyBuffer),
	}
}}

// measure checks everything that f declares but its Sum, writes the content to w and
// returns the sum that it has.
func measure(ctx context.Context, f Raw, r io.Reader, w io.Writer) (verify.Digest, error) {
	var sum verify.Digest
	if err := f.Check(); err != nil {
		return sum, err
	}
	z := inflaters.Get().(*inflater)
	defer inflaters.Put(z)
	src := &source{r: io.LimitedReader{R: r, N: f.CompressedSize}}
	z.in.Reset(src)
	defer z.in.Reset(nil)
	var content io.Reader = z.in
	if f.Method == zip.Deflate {
		// A bufio.Reader is an io.ByteReader, so that flate reads no byte past the
		// end of its stream and what is left can be told.
		if err := z.out.(flate.Resetter).Reset(z.in, nil); err != nil {
			return sum, fmt.Errorf("file %s: %w", f.Sum, err)
		}
		content = z.out
	}
	crc, hash := crc32.NewIEEE(), sha256.New()
	n, err := copyUpTo(ctx, io.MultiWriter(crc, hash, w), content, f.Size, z.buf)
	switch {
	case src.err != nil:
		return sum, fmt.Errorf("file %s: read stream: %w", f.Sum, src.err)
	case ctx.Err() != nil:
		return sum, ctx.Err()
	case err != nil:
		return sum, fmt.Errorf("file %s: stream does not inflate: %w: %w", f.Sum, err, ErrBadFile)
	case n != f.Size:
		return sum, fmt.Errorf("file %s: content is not of the declared %d bytes: %w", f.Sum, f.Size, ErrBadFile)
	}
	if left := src.r.N + int64(z.in.Buffered()); left > 0 {
		return sum, fmt.Errorf("file %s: %d bytes of the stream are left over or missing: %w", f.Sum, left, ErrBadFile)
	}
	if got := crc.Sum32(); got != f.CRC32 {
		return sum, fmt.Errorf("file %s: content has CRC-32 %08x, declared is %08x: %w", f.Sum, got, f.CRC32, ErrBadFile)
	}
	hash.Sum(sum[:0])
	return sum, nil
}

// source tells an error of the reader from an error of its bytes.
type source struct {
	r   io.LimitedReader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// copyUpTo copies src until its end, or until limit+1 bytes have come, which are
// one more than a caller wants and tell a bomb.
func copyUpTo(ctx context.Context, dst io.Writer, src io.Reader, limit int64, buf []byte) (int64, error) {
	var total int64
	for total <= limit {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := src.Read(buf)
		if int64(n) > limit-total {
			return limit + 1, nil
		}
		total += int64(n)
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return total, werr
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
