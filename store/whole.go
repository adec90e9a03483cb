package store

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/meshproxy/meshproxy/verify"
)

// oftenWritten is how often a zip is put together before it is kept whole: most are
// asked for once, and again by whoever looks whether it worked.
const oftenWritten = 2

// wholeZip is all of a zip, in memory or in a file of hot.
type wholeZip struct {
	data []byte     // of a small zip; shared, not to be changed
	file *hotReader // of a large one
	size int64
}

// openWhole opens a zip that is at hand whole, without asking the database: the
// cache has the index of zips that are held only, because the writer takes it out
// when it drops one (see forgetZip). It returns nil if the zip is not at hand so, or
// not to be served.
func (s *Store) openWhole(root verify.Digest) *ZipFile {
	index, ok := s.cache.zips.get(root)
	if !ok || index.epoch != s.epoch.Load() || !s.servable(root, index.files) {
		return nil
	}
	w := &wholeZip{size: index.skeleton.Size()}
	if w.size <= maxCachedBody {
		b, ok := s.cache.bodies.get(root)
		if !ok || b.tag != index.tag {
			return nil
		}
		w.data = b.data
	} else if w.file = s.hot.open(root, index.tag); w.file == nil {
		return nil
	}
	return &ZipFile{s: s, whole: w, root: root, index: index}
}

// servable notes that a zip is read now, unless the store is closed or something of
// the zip is in quarantine.
func (s *Store) servable(root verify.Digest, files []verify.File) bool {
	now := s.o.Clock().Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.broken.Load() {
		return false
	}
	if len(s.bad) > 0 {
		if _, bad := s.bad[root]; bad {
			return false
		}
		for _, f := range files {
			if _, bad := s.bad[f.Sum]; bad {
				return false
			}
		}
	}
	s.reads[root] = now
	return true
}

// rememberZip puts the index of a zip that was held into the cache, unless any zip
// was dropped since dropped was counted: it may have been this one.
func (s *Store) rememberZip(root verify.Digest, z *zipIndex, dropped int64) {
	s.cache.zips.addIf(root, z, z.weight(), func() bool { return s.dropped.Load() == dropped })
}

// forgetZip is called by the writer for a zip that it has dropped, before whoever
// asked for that is told. The count goes up first, so that a reader that saw the
// zip in an older snapshot either finds the count changed or has its index removed.
func (s *Store) forgetZip(root verify.Digest) {
	s.dropped.Add(1)
	s.cache.zips.remove(root)
	s.cache.bodies.remove(root)
	s.hot.drop(root)
}

// readAt reads as io.ReaderAt says. A file that ends early is an error, and never
// the end of the zip.
func (w *wholeZip) readAt(p []byte, off int64) (n int, err error) {
	switch {
	case off < 0:
		return 0, fmt.Errorf("read: before the start: %w", fs.ErrInvalid)
	case off >= w.size:
		return 0, io.EOF
	}
	if w.file == nil {
		n = copy(p, w.data[off:])
	} else if n, err = w.file.ReadAt(p, off); err == io.EOF && off+int64(n) < w.size {
		return n, io.ErrUnexpectedEOF
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// writeTo writes what follows pos.
func (w *wholeZip) writeTo(dst io.Writer, pos int64) (int64, error) {
	pos = min(pos, w.size)
	if w.file == nil {
		n, err := dst.Write(w.data[pos:])
		return int64(n), err
	}
	if pos > 0 {
		if _, err := w.file.Seek(pos, io.SeekStart); err != nil {
			return 0, err
		}
	}
	n, err := io.Copy(dst, io.LimitReader(w.file.File, w.size-pos))
	if err == nil && n < w.size-pos {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (w *wholeZip) close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

// WriteTo writes the rest of the zip to w, in large pieces. A zip that is asked
// for often comes from memory if it is small, and else from a file, which the
// kernel copies if w is an io.ReaderFrom that lets it.
func (z *ZipFile) WriteTo(w io.Writer) (int64, error) {
	if z.whole != nil {
		n, err := z.whole.writeTo(w, z.pos)
		z.pos += n
		return n, err
	}
	if z.pos > 0 || z.index.written.Add(1) <= oftenWritten {
		return z.assemble(w, nil)
	}
	if z.Size() <= maxCachedBody {
		body, err := z.body()
		if err != nil {
			return 0, err
		}
		n, err := w.Write(body)
		z.pos = int64(n)
		return z.pos, err
	}
	keep := z.s.hot.create(z.root, z.index.tag, z.Size())
	defer keep.end()
	return z.assemble(w, keep)
}

// assemble puts together the rest of the zip, for w and for keep if it is not nil.
func (z *ZipFile) assemble(w io.Writer, keep *hotWriter) (int64, error) {
	win := newWindow()
	defer win.free()
	var total int64
	for z.pos < z.Size() {
		part, err := z.at(z.pos, win, true)
		if err != nil {
			return total, err
		}
		keep.write(part)
		n, err := w.Write(part)
		total += int64(n)
		z.pos += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// body puts the whole zip into the cache.
func (z *ZipFile) body() ([]byte, error) {
	win := newWindow()
	defer win.free()
	data := make([]byte, z.Size())
	if _, err := z.readAt(data, 0, win, true); err != nil {
		return nil, err
	}
	z.s.cache.bodies.add(z.root, body{z.index.tag, data}, int64(len(data)))
	return data, nil
}
