package store

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/simplelru"

	"github.com/meshproxy/meshproxy/verify"
)

// Bounds of the zips that stand whole in files.
const (
	maxHotBytes = 512 << 20 // of all
	maxHotZip   = 64 << 20  // of one
	maxHotFiles = 4 << 10
	// hotAge is how long such a file is served from before it is put together, and
	// with that checked, anew: what the system reads from it nobody checks.
	hotAge = 30 * time.Minute
	// Open files that wait for the next reader: to open and close one costs a
	// twentieth of sending a zip of usual size.
	maxSpareFiles = 128 // of all zips
	maxSpareOfOne = 4
)

// hot keeps zips that are asked for again and again as files, which the kernel
// sends without a copy through this process. They are made as a zip is served from
// the store, each value checked; they are gone when the store is closed, or after
// a crash; and they are never more than a small part of the disk's free space.
type hot struct {
	dir   string
	now   func() time.Time
	space func() (int64, error) // free on the disk

	mu     sync.Mutex // guards what follows
	files  *simplelru.LRU
	bytes  int64
	spares int // of all files
	making map[verify.Digest]struct{}
}

// hotZip is a file of hot.
type hotZip struct {
	name string
	tag  verify.Digest // of the zip's bytes
	size int64
	made time.Time

	gone  bool       // guarded by hot.mu; it was removed
	spare []*os.File // guarded by hot.mu; nobody reads them
}

func newHot(dir string, now func() time.Time) *hot {
	h := &hot{dir: dir, now: now, making: make(map[verify.Digest]struct{})}
	h.space = func() (int64, error) { return freeSpace(dir) }
	list, err := simplelru.NewLRU(maxHotFiles, func(_, v any) { h.removed(v.(*hotZip)) })
	if err != nil {
		panic(err) // the size is a positive constant
	}
	h.files = list
	return h
}

// removed tidies up after a file that the list has given up; h.mu is held. Who reads
// it goes on reading.
func (h *hot) removed(z *hotZip) {
	h.bytes -= z.size
	h.spares -= len(z.spare)
	for _, f := range z.spare {
		f.Close()
	}
	z.gone, z.spare = true, nil
	os.Remove(z.name)
}

// hotReader is an open file of a zip, for one reader alone, at its beginning.
type hotReader struct {
	*os.File
	h *hot
	z *hotZip
}

// open returns the file of a zip, nil if there is none; the caller closes it.
func (h *hot) open(root, tag verify.Digest) *hotReader {
	z, f := h.find(root, tag)
	if z == nil {
		return nil
	}
	if f != nil {
		if _, err := f.Seek(0, io.SeekStart); err == nil {
			return &hotReader{f, h, z}
		}
		f.Close()
	}
	f, err := os.Open(z.name)
	if err != nil {
		return nil // dropped at this moment
	}
	return &hotReader{f, h, z}
}

// find returns what there is of a zip, with an open file if one waits.
func (h *hot) find(root, tag verify.Digest) (*hotZip, *os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.files.Get(root)
	if !ok {
		return nil, nil
	}
	z := v.(*hotZip)
	if z.tag != tag || h.now().Sub(z.made) > hotAge {
		h.files.Remove(root)
		return nil, nil
	}
	last := len(z.spare) - 1
	if last < 0 {
		return z, nil
	}
	f := z.spare[last]
	z.spare = z.spare[:last]
	h.spares--
	return z, f
}

// Close leaves the file open for the next reader, if there is room for that. Once
// is enough.
func (r *hotReader) Close() error {
	f := r.File
	if r.File = nil; f == nil {
		return nil
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if r.z.gone || len(r.z.spare) >= maxSpareOfOne || r.h.spares >= maxSpareFiles {
		return f.Close()
	}
	r.z.spare = append(r.z.spare, f)
	r.h.spares++
	return nil
}

// close gives up all files.
func (h *hot) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files.Purge()
}

// drop removes the file of a zip.
func (h *hot) drop(root verify.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files.Remove(root)
}

// create begins the file of a zip; nil if somebody else has, or there is no room
// for it to spare.
func (h *hot) create(root, tag verify.Digest, size int64) *hotWriter {
	const share = 16 // of the free space, at most this part
	if size > maxHotZip {
		return nil
	}
	if free, err := h.space(); err != nil || free/share < maxHotBytes {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, busy := h.making[root]; busy {
		return nil
	}
	f, err := os.CreateTemp(h.dir, "zip-")
	if err != nil {
		return nil // it is served all the same
	}
	h.making[root] = struct{}{}
	return &hotWriter{h: h, root: root, f: f, z: &hotZip{name: f.Name(), tag: tag, size: size}}
}

// hotWriter is a file that is being made.
type hotWriter struct {
	h       *hot
	root    verify.Digest
	f       *os.File
	z       *hotZip
	written int64
	err     error
}

// write adds to the file. An error shows in end.
func (w *hotWriter) write(p []byte) {
	if w == nil || w.err != nil {
		return
	}
	var n int
	n, w.err = w.f.Write(p)
	w.written += int64(n)
}

// end keeps the file if it is whole.
func (w *hotWriter) end() {
	if w == nil {
		return
	}
	err := errors.Join(w.err, w.f.Close())
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	delete(w.h.making, w.root)
	if err != nil || w.written != w.z.size {
		os.Remove(w.z.name)
		return
	}
	w.z.made = w.h.now()
	w.h.files.Remove(w.root)
	w.h.files.Add(w.root, w.z)
	for w.h.bytes += w.z.size; w.h.bytes > maxHotBytes; {
		w.h.files.RemoveOldest()
	}
}
