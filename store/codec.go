package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// RawFile describes a file's stream as the store keeps it.
type RawFile = modzip.Raw

// Flags of a file.
const (
	flagPresent = 1 << iota // the stream is held
	flagDamaged             // the stream was held and is in quarantine
)

// fileHead is the value of spaceFile. Without flags the file is wanted: a listing
// names it, and its bytes have not come yet.
type fileHead struct {
	flags byte
	refs  uint32
	raw   RawFile // Sum is that of the key
	num   uint64  // of the stream; 0 when no part of it was ever written
}

const fileHeadSize = 1 + 1 + 4 + 4 + 8 + 8 + 8

func (h fileHead) present() bool { return h.flags&flagPresent != 0 }

func (h fileHead) encode() []byte {
	b := make([]byte, 0, fileHeadSize+sealSize)
	b = append(b, h.flags, byte(h.raw.Method))
	b = binary.BigEndian.AppendUint32(b, h.refs)
	b = binary.BigEndian.AppendUint32(b, h.raw.CRC32)
	b = binary.BigEndian.AppendUint64(b, uint64(h.raw.CompressedSize))
	b = binary.BigEndian.AppendUint64(b, uint64(h.raw.Size))
	return binary.BigEndian.AppendUint64(b, h.num)
}

// stream is what is needed to read a file that is held.
func (h fileHead) stream() stream { return stream{h.raw, h.num} }

// stream is a file's stream and where it stands.
type stream struct {
	RawFile
	num uint64
}

func decodeFileHead(sum verify.Digest, b []byte) (fileHead, error) {
	var h fileHead
	if len(b) != fileHeadSize {
		return h, damaged("file "+sum.Hex(), fmt.Errorf("header of %d bytes", len(b)))
	}
	be := binary.BigEndian
	h = fileHead{flags: b[0], refs: be.Uint32(b[2:]), raw: RawFile{
		Sum: sum, Method: uint16(b[1]), CRC32: be.Uint32(b[6:]),
		CompressedSize: int64(be.Uint64(b[10:])), Size: int64(be.Uint64(b[18:])),
	}, num: be.Uint64(b[26:])}
	if h.flags&^(flagPresent|flagDamaged) != 0 || h.flags == flagPresent|flagDamaged {
		return h, damaged("file "+sum.Hex(), fmt.Errorf("flags %#x", h.flags))
	}
	if err := h.raw.Check(); err != nil {
		return h, damaged("file "+sum.Hex(), err)
	}
	return h, nil
}

// layout is the value of spaceZip: the streams of the files of a listing, in the
// order of modzip.Sums, so that a zip's headers are known without a look-up for
// each file.
type layout struct {
	epoch uint64
	files []stream
}

func (l layout) encode() []byte {
	b := make([]byte, 0, 12+len(l.files)*12+sealSize)
	b = binary.BigEndian.AppendUint64(b, l.epoch)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.files)))
	last := uint64(0)
	for _, f := range l.files {
		b = append(b, byte(f.Method))
		b = binary.BigEndian.AppendUint32(b, f.CRC32)
		b = binary.AppendUvarint(b, uint64(f.CompressedSize))
		b = binary.AppendUvarint(b, uint64(f.Size))
		b = binary.AppendVarint(b, int64(f.num-last))
		last = f.num
	}
	return b
}

var errLayout = errors.New("layout does not fit its listing")

// decodeLayout reads a layout for the files whose sums are given.
func decodeLayout(sums []verify.File, b []byte) (layout, error) {
	var l layout
	if len(b) < 12 || int(binary.BigEndian.Uint32(b[8:])) != len(sums) {
		return l, damaged("zip", errLayout)
	}
	l.epoch, b = binary.BigEndian.Uint64(b), b[12:]
	l.files = make([]stream, len(sums))
	last := uint64(0)
	for i := range sums {
		f, rest, err := decodeStream(b)
		if err != nil {
			return l, damaged("zip", err)
		}
		f.Sum, b = sums[i].Sum, rest
		last += f.num
		f.num = last
		if err := f.Check(); err != nil {
			return l, damaged("zip", err)
		}
		l.files[i] = f
	}
	if len(b) != 0 {
		return l, damaged("zip", errLayout)
	}
	return l, nil
}

// decodeStream reads one file of a layout; its number is relative.
func decodeStream(b []byte) (f stream, rest []byte, err error) {
	if len(b) < 5 {
		return f, nil, errLayout
	}
	f.Method, f.CRC32, b = uint16(b[0]), binary.BigEndian.Uint32(b[1:]), b[5:]
	packed, n := binary.Uvarint(b)
	if n <= 0 {
		return f, nil, errLayout
	}
	size, m := binary.Uvarint(b[n:])
	if m <= 0 {
		return f, nil, errLayout
	}
	num, k := binary.Varint(b[n+m:])
	if k <= 0 {
		return f, nil, errLayout
	}
	f.CompressedSize, f.Size, f.num = int64(packed), int64(size), uint64(num)
	return f, b[n+m+k:], nil
}

// use is the value of spaceUse.
type use struct {
	size            int64 // bytes of the zip
	committed, read int64 // unix seconds
}

func (u use) encode() []byte {
	b := make([]byte, 0, 24+sealSize)
	for _, v := range []int64{u.size, u.committed, u.read} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b
}

func decodeUse(b []byte) (use, error) {
	if len(b) != 24 {
		return use{}, damaged("use", fmt.Errorf("%d bytes", len(b)))
	}
	be := binary.BigEndian
	return use{int64(be.Uint64(b)), int64(be.Uint64(b[8:])), int64(be.Uint64(b[16:]))}, nil
}

// stamped is a time followed by bytes.
func stamped(t int64, value []byte) []byte {
	b := make([]byte, 0, 8+len(value)+sealSize)
	return append(binary.BigEndian.AppendUint64(b, uint64(t)), value...)
}

func decodeStamped(b []byte) (t int64, value []byte, err error) {
	if len(b) < 8 {
		return 0, nil, damaged("stamped value", fmt.Errorf("%d bytes", len(b)))
	}
	return int64(binary.BigEndian.Uint64(b)), b[8:], nil
}

// Accounting counts what the store holds. It is true at any time, because it is
// part of every transaction that changes it. Sizes are in bytes.
type Accounting struct {
	Files       int64 `cbor:"1,keyasint"`  // distinct files held
	FileBytes   int64 `cbor:"2,keyasint"`  // their streams, each once: what the disk pays
	FileSize    int64 `cbor:"3,keyasint"`  // their contents, each once
	Shared      int64 `cbor:"4,keyasint"`  // files that two or more zips hold
	SharedBytes int64 `cbor:"5,keyasint"`  // their streams, each once
	Zips        int64 `cbor:"6,keyasint"`  // zips held whole
	ZipBytes    int64 `cbor:"7,keyasint"`  // their sizes, as served: what a pile of zips would take
	Wanted      int64 `cbor:"8,keyasint"`  // files named by a listing and not come yet
	Damaged     int64 `cbor:"9,keyasint"`  // files in quarantine
	Infos       int64 `cbor:"10,keyasint"` // records of .info files
	Mods        int64 `cbor:"11,keyasint"` // records of go.mod files
	ZipRecords  int64 `cbor:"12,keyasint"` // records of zips, held or not
	RecordBytes int64 `cbor:"13,keyasint"` // envelopes of all records
	Releases    int64 `cbor:"14,keyasint"` // module versions with any record
	Conflicts   int64 `cbor:"15,keyasint"` // records refused and kept as evidence
}

// file adds (sign 1) or takes away (sign -1) what h counts for.
func (a *Accounting) file(h fileHead, sign int64) {
	switch {
	case h.refs == 0:
	case h.flags&flagPresent != 0:
		a.Files += sign
		a.FileBytes += sign * h.raw.CompressedSize
		a.FileSize += sign * h.raw.Size
		if h.refs > 1 {
			a.Shared += sign
			a.SharedBytes += sign * h.raw.CompressedSize
		}
	case h.flags&flagDamaged != 0:
		a.Damaged += sign
	default:
		a.Wanted += sign
	}
}

func (a *Accounting) record(k verify.Kind, envelope []byte, sign int64) {
	switch k {
	case verify.Info:
		a.Infos += sign
	case verify.Mod:
		a.Mods += sign
	case verify.Zip:
		a.ZipRecords += sign
	}
	a.RecordBytes += sign * int64(len(envelope))
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 64,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("CBOR options: " + err.Error()) // the options are constants of this file
	}
	return v
}
