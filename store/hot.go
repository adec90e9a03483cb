package store

import (
	"errors"
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
	making map[verify.Digest]struct{}
}

// hotZip is a file of hot.
type hotZip struct {
	name string
	tag  verify.Digest // of the zip's bytes
	size int64
	made time.Time
}

func newHot(dir string, now func() time.Time) *hot {
	h := &hot{dir: dir, now: now, making: make(map[verify.Digest]struct{})}
	h.space = func() (int64, error) { return freeSpace(dir) }
	list, err := simplelru.NewLRU(maxHotFiles, func(_, v any) {
		h.bytes -= v.(*hotZip).size
		os.Remove(v.(*hotZip).name) // who reads it goes on reading
	})
	if err != nil {
		panic(err) // the size is a positive constant
	}
	h.files = list
	return h
}

// open returns the file of a zip, nil if there is none; the caller closes it.
func (h *hot) open(root, tag verify.Digest) *os.File {
	h.mu.Lock()
	v, ok := h.files.Get(root)
	if !ok {
		h.mu.Unlock()
		return nil
	}
	z := v.(*hotZip)
	if z.tag != tag || h.now().Sub(z.made) > hotAge {
		h.files.Remove(root)
		h.mu.Unlock()
		return nil
	}
	h.mu.Unlock()
	f, err := os.Open(z.name)
	if err != nil {
		return nil // dropped at this moment
	}
	return f
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
