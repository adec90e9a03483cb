package modzip

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/meshproxy/meshproxy/verify"
)

// Fields of the local file header and data descriptor, APPNOTE 4.3.7 and 4.3.9.
const (
	localSignature      = 0x04034b50
	descriptorSignature = 0x08074b50
	directorySignature  = 0x02014b50
	endSignature        = 0x06054b50
	end64Signature      = 0x06064b50
	locatorSignature    = 0x07064b50
	localLen            = 30
	directoryLen        = 46
	endLen              = 22
	locatorLen          = 20
	endMax              = 1 << 10 // far more than a 64-bit end record has
	flagEncrypted       = 1
	flagDescriptor      = 8
	extraZip64          = 1
)

// span is where an entry stands in the zip.
type span struct {
	body int64 // the first byte of the stream
	end  int64 // behind the stream and its data descriptor
}

// walk reads every local header and checks that it says what the central
// directory says, that entries follow each other from the first byte on, and that
// the central directory follows the last. A zip whose bytes are all accounted for
// cannot mean one thing to one reader and another to the next.
func walk(r io.ReaderAt, size int64, files []*zip.File) ([]span, error) {
	bodies := make([]int64, len(files))
	for i, f := range files {
		at, err := f.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("file %.300q: local header: %w: %w", f.Name, err, ErrBadFile)
		}
		bodies[i] = at
	}
	spans := make([]span, len(files))
	var cursor int64
	for _, i := range sortSpans(bodies) {
		sp, err := local(r, cursor, files[i])
		if err == nil && sp.body != bodies[i] {
			err = fmt.Errorf("stream at byte %d: directory says %d", sp.body, bodies[i])
		}
		if err != nil {
			return nil, fmt.Errorf("file %.300q: at byte %d: %w: %w", files[i].Name, cursor, err, ErrBadFile)
		}
		spans[i], cursor = sp, sp.end
	}
	return spans, checkEnd(r, size, cursor, files)
}

// checkEnd checks that the central directory stands at byte at, has the files and
// nothing else, and is followed by its end record, which ends the zip.
func checkEnd(r io.ReaderAt, size, at int64, files []*zip.File) error {
	if len(files) > 0 {
		if err := expect(r, size, at, directorySignature); err != nil {
			return err
		}
	}
	for _, f := range files {
		at += directoryLen + int64(len(f.Name)+len(f.Extra)+len(f.Comment))
	}
	if expect(r, size, at, end64Signature) == nil {
		var h [12]byte
		if err := readFull(r, h[:], at, size); err != nil {
			return err
		}
		length := binary.LittleEndian.Uint64(h[4:])
		if length > endMax {
			return fmt.Errorf("at byte %d: end record of %d bytes: %w", at, length, ErrBadFile)
		}
		at += int64(len(h)) + int64(length)
		if err := expect(r, size, at, locatorSignature); err != nil {
			return err
		}
		at += locatorLen
	}
	if err := expect(r, size, at, endSignature); err != nil {
		return err
	}
	var h [endLen]byte
	if err := readFull(r, h[:], at, size); err != nil {
		return err
	}
	if at += endLen + int64(binary.LittleEndian.Uint16(h[endLen-2:])); at != size {
		return fmt.Errorf("zip ends at byte %d of %d: %w", at, size, ErrBadFile)
	}
	return nil
}

// expect reports whether a record begins at byte at.
func expect(r io.ReaderAt, size, at int64, signature uint32) error {
	var sig [4]byte
	if err := readFull(r, sig[:], at, size); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint32(sig[:]); got != signature {
		return fmt.Errorf("at byte %d: record %08x, want %08x: %w", at, got, signature, ErrBadFile)
	}
	return nil
}

func readFull(r io.ReaderAt, p []byte, off, size int64) error {
	if off < 0 || off+int64(len(p)) > size {
		return fmt.Errorf("at byte %d: truncated: %w", off, ErrBadFile)
	}
	_, err := io.ReadFull(io.NewSectionReader(r, off, int64(len(p))), p)
	return err
}

// local checks the local header at offset at against the central directory.
func local(r io.ReaderAt, at int64, f *zip.File) (span, error) {
	var h [localLen]byte
	if _, err := r.ReadAt(h[:], at); err != nil {
		return span{}, err
	}
	le := binary.LittleEndian
	nameLen, extraLen := int(le.Uint16(h[26:])), int(le.Uint16(h[28:]))
	rest := make([]byte, nameLen+extraLen) // at most 128 KiB
	if _, err := r.ReadAt(rest, at+localLen); err != nil && (err != io.EOF || len(rest) > 0) {
		return span{}, err
	}
	flags := le.Uint16(h[6:])
	d := declared{crc: le.Uint32(h[14:]), packed: uint64(le.Uint32(h[18:])), size: uint64(le.Uint32(h[22:]))}
	d.zip64(rest[nameLen:])
	switch {
	case le.Uint32(h[0:]) != localSignature:
		return span{}, errors.New("no local header")
	case string(rest[:nameLen]) != f.Name:
		return span{}, fmt.Errorf("local header is that of %.300q", rest[:nameLen])
	case le.Uint16(h[8:]) != f.Method:
		return span{}, errors.New("local header has another compression method")
	case (flags^f.Flags)&(flagEncrypted|flagDescriptor) != 0:
		return span{}, errors.New("local header has other flags")
	}
	sp := span{body: at + localLen + int64(len(rest))}
	sp.end = sp.body + int64(f.CompressedSize64)
	if flags&flagDescriptor == 0 {
		if !d.is(f) {
			return span{}, errors.New("local header has another CRC-32 or size")
		}
		return sp, nil
	}
	if d != (declared{}) && !d.is(f) && !d.is64(f) {
		return span{}, errors.New("local header has another CRC-32 or size")
	}
	n, err := descriptor(r, sp.end, f)
	sp.end += n
	return sp, err
}

type declared struct {
	crc          uint32
	packed, size uint64
}

func (d declared) is(f *zip.File) bool {
	return d.crc == f.CRC32 && d.packed == f.CompressedSize64 && d.size == f.UncompressedSize64
}

// is64 is the header of a stream of unknown length that may need 64-bit sizes.
func (d declared) is64(f *zip.File) bool {
	const unknown = 1<<32 - 1
	return (d.crc == 0 || d.crc == f.CRC32) && (d.packed == unknown || d.packed == 0) && (d.size == unknown || d.size == 0)
}

// zip64 replaces sizes that stand in the extra field.
func (d *declared) zip64(extra []byte) {
	const unknown = 1<<32 - 1
	le := binary.LittleEndian
	for len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		extra = extra[4:]
		if n > len(extra) {
			return
		}
		field := extra[:n]
		extra = extra[n:]
		if id != extraZip64 {
			continue
		}
		if d.size == unknown && len(field) >= 8 {
			d.size, field = le.Uint64(field), field[8:]
		}
		if d.packed == unknown && len(field) >= 8 {
			d.packed = le.Uint64(field)
		}
		return
	}
}

// descriptor checks the data descriptor at offset at, in whichever of its four
// forms fits and is followed by a header, and returns its length.
func descriptor(r io.ReaderAt, at int64, f *zip.File) (int64, error) {
	var b [28]byte // the longest form, 24 bytes, and the next signature
	n, err := r.ReadAt(b[:], at)
	if err != nil && err != io.EOF {
		return 0, err
	}
	le := binary.LittleEndian
	for _, form := range []struct{ sign, width int }{{4, 4}, {0, 4}, {4, 8}, {0, 8}} {
		length := form.sign + 4 + 2*form.width
		if n < length+4 || form.sign > 0 && le.Uint32(b[:]) != descriptorSignature {
			continue
		}
		p := b[form.sign:]
		d := declared{crc: le.Uint32(p), packed: uint64(le.Uint32(p[4:])), size: uint64(le.Uint32(p[8:]))}
		if form.width == 8 {
			d.packed, d.size = le.Uint64(p[4:]), le.Uint64(p[12:])
		}
		next := le.Uint32(b[length:])
		if d.is(f) && (next == localSignature || next == directorySignature) {
			return int64(length), nil
		}
	}
	return 0, errors.New("data descriptor does not fit the directory")
}

// hashReader computes the SHA-256 of what is read through it.
type hashReader struct {
	r io.Reader
	h hash.Hash
}

func newHashReader(r io.Reader) *hashReader { return &hashReader{r: r, h: sha256.New()} }

func (h *hashReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.h.Write(p[:n])
	return n, err
}

func (h *hashReader) sum() (d verify.Digest) {
	h.h.Sum(d[:0])
	return d
}
