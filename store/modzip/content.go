package modzip

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/meshproxy/meshproxy/verify"
)

// Content is what is in a file, and its SHA-256.
type Content struct {
	Sum  verify.Digest
	Data []byte
}

// Content is Verify that returns the content as well. It allocates f.Size bytes,
// which the caller must have found small enough.
func (f Raw) Content(ctx context.Context, r io.Reader) ([]byte, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, f.Size))
	if err := f.verify(ctx, r, b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// packLevel is the level at which archive/zip compresses, and with it the go command
// and the proxies that are written in Go: the same library at the same level makes the
// very streams that nearly all module zips have, so that zips are the same bytes
// wherever their files came from.
const packLevel = 5

// deflaters hold what compresses.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(io.Discard, packLevel)
	if err != nil {
		panic("DEFLATE writer: " + err.Error()) // a constant
	}
	return w
}}

// Pack makes a DEFLATE stream of content, whose SHA-256 is sum, also where that is longer
// than the content, as archive/zip does. The same content gives the same stream in the
// same build of the program.
func Pack(sum verify.Digest, content []byte) (Raw, []byte, error) {
	f := Raw{Sum: sum, Method: zip.Deflate, CRC32: crc32.ChecksumIEEE(content), Size: int64(len(content))}
	b := bytes.NewBuffer(make([]byte, 0, len(content)/2))
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(b)
	if _, err := w.Write(content); err != nil {
		return Raw{}, nil, fmt.Errorf("compress file %s: %w", sum, err)
	}
	if err := w.Close(); err != nil {
		return Raw{}, nil, fmt.Errorf("compress file %s: %w", sum, err)
	}
	f.CompressedSize = int64(b.Len())
	return f, b.Bytes(), nil
}
