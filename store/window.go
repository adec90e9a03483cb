package store

import (
	"bytes"

	"github.com/dgraph-io/badger/v4"
)

// Bounds of what is read ahead. An iterator costs as much as some look-ups, and
// keeps Badger from deleting old value logs, so it lives for one window only.
const (
	windowBytes = 256 << 10
	windowFiles = 256
)

// window holds the streams of consecutive entries of a zip, or one chunk of a
// large one.
type window struct {
	first int    // entry
	chunk uint32 // of that entry
	ends  []int  // of each entry's bytes in data
	data  []byte
}

// get returns the chunk of an entry, if the window holds it.
func (w *window) get(entry int, chunk uint32) ([]byte, bool) {
	i := entry - w.first
	if i < 0 || i >= len(w.ends) || chunk != w.chunk {
		return nil, false
	}
	start := 0
	if i > 0 {
		start = w.ends[i-1]
	}
	return w.data[start:w.ends[i]], true
}

// load reads chunk of the first of streams, which is that of entry, and with
// ahead those of the streams that follow, as far as they are small.
func (w *window) load(snap *snapshot, streams []stream, entry int, chunk uint32, ahead bool) error {
	w.first, w.chunk, w.ends, w.data = entry, chunk, w.ends[:0], w.data[:0]
	if ahead && streams[0].CompressedSize <= chunkSize {
		if err := snap.readAhead(w, streams); err != nil {
			return err
		}
		if len(w.ends) > 0 {
			return nil
		}
	}
	var err error
	if w.data, err = snap.chunk(streams[0], chunk, w.data); err != nil {
		return err
	}
	w.ends = append(w.ends, len(w.data))
	return nil
}

// readAhead fills the window with streams that are whole chunks. It ends before
// the first that cannot be read: to say why is for chunk.
func (p *snapshot) readAhead(w *window, streams []stream) error {
	if err := p.s.enter(); err != nil {
		return err
	}
	defer p.s.leave()
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = []byte{spaceChunk}, false
	it := p.txn.NewIterator(o)
	defer it.Close()
	for i, f := range streams {
		full := len(w.data)+int(f.CompressedSize) > windowBytes && i > 0
		if f.CompressedSize > chunkSize || full || i == windowFiles {
			break
		}
		if f.CompressedSize > 0 && !w.next(it, f) {
			break
		}
		w.ends = append(w.ends, len(w.data))
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
