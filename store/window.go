package store

import (
	"bytes"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/meshproxy/meshproxy/store/modzip"
)

// Bounds of what is read ahead. An iterator costs as much as some look-ups, and
// keeps Badger from deleting old value logs, so it lives for one window only.
const (
	windowBytes = 256 << 10
	windowFiles = 256
)

// window holds consecutive bytes of a zip, headers and streams: what is read at
// once, and what is written at once.
type window struct {
	start int64 // offset in the zip
	data  []byte
}

var windows = sync.Pool{New: func() any { return new(window) }}

// newWindow returns an empty window, which may have memory; free gives it back.
func newWindow() *window {
	w := windows.Get().(*window)
	w.data = w.data[:0]
	return w
}

func (w *window) free() { windows.Put(w) }

// get returns the bytes from offset on, none if the window does not hold them.
func (w *window) get(off int64) []byte {
	if off < w.start || off >= w.start+int64(len(w.data)) {
		return nil
	}
	return w.data[off-w.start:]
}

// chunk reads chunk i of an entry whose stream begins at offset at.
func (w *window) chunk(z *ZipFile, entry int, at int64, i uint32) (err error) {
	w.data = w.data[:0] // an error leaves nothing of before
	data, err := z.snap.chunk(z.index.streams[entry], i, w.data)
	if err != nil {
		return err
	}
	w.start, w.data = at+int64(i)*chunkSize, data
	return nil
}

// ahead fills the window from the beginning of seg on with headers and those
// streams that are whole chunks. It ends before the first that cannot be read: to
// say why is for chunk.
func (w *window) ahead(z *ZipFile, seg modzip.Segment) error {
	w.start, w.data = seg.Offset, w.data[:0]
	p := z.snap
	if err := p.s.enter(); err != nil {
		return err
	}
	defer p.s.leave()
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = []byte{spaceChunk}, false
	it := p.txn.NewIterator(o)
	defer it.Close()
	for i, f := range z.index.streams[seg.Entry:] {
		head := seg.Header
		if i > 0 {
			head = z.index.skeleton.Header(seg.Entry + i)
		}
		full := len(w.data)+len(head)+int(f.CompressedSize) > windowBytes && i > 0
		if f.CompressedSize > chunkSize || full || i == windowFiles {
			return nil
		}
		before := len(w.data)
		w.data = append(w.data, head...)
		if f.CompressedSize > 0 && !w.next(it, f) {
			w.data = w.data[:before]
			return nil
		}
	}
	if last := z.index.skeleton.Header(len(z.index.streams)); len(w.data)+len(last) <= windowBytes {
		w.data = append(w.data, last...)
	}
	return nil
}

// next appends the only chunk of f, which often is where the iterator stands.
func (w *window) next(it *badger.Iterator, f stream) bool {
	k := streamKey(f.num, 0)
	if !it.Valid() || !bytes.Equal(it.Item().Key(), k) {
		if guard(func() error { it.Seek(k); return nil }) != nil {
			return false
		}
	}
	if !it.Valid() || !bytes.Equal(it.Item().Key(), k) {
		return false
	}
	start := len(w.data)
	err := viewItem(it.Item(), func(v []byte) error {
		w.data = append(w.data, v...)
		return nil
	})
	if nerr := guard(func() error { it.Next(); return nil }); nerr != nil || err != nil || int64(len(w.data)-start) != f.CompressedSize {
		w.data = w.data[:start]
		return false
	}
	return true
}
