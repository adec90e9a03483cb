package protocol

import (
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// copySize is how much content is read and written at once, in bytes.
const copySize = 128 << 10

// sendSize is how much of a file is handed to the kernel at once, in bytes.
const sendSize = 1 << 20

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// writer is a ResponseWriter that counts, and that gives each write a deadline
// of its own: a slow client may take hours, one that takes nothing may not.
type writer struct {
	http.ResponseWriter
	stall   time.Duration
	armed   time.Time // when the deadline was last moved
	status  int       // 0 before WriteHeader
	written int64
	id      string // of the request
	told    error  // what the client was told instead of content
	err     error  // of the first write that failed
	cut     bool
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.arm()
		if status >= http.StatusBadRequest {
			w.Header()["Cache-Control"] = noStore // those of http.ServeContent too
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer. Each piece of copySize has a deadline of its own.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	var n int
	for {
		w.arm()
		m, err := w.ResponseWriter.Write(p[n:min(len(p), n+copySize)])
		n += m
		w.written += int64(m)
		if err != nil && w.err == nil {
			w.err = err
		}
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// ReadFrom implements io.ReaderFrom, so that http.ServeContent copies in large
// pieces that each have their deadline, and files without this process reading
// them (sendfile).
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		if f, ok := lr.R.(*os.File); ok {
			return w.sendFile(f, lr.N)
		}
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(onlyWriter{w}, r, buf[:])
}

// sendFile writes the next size bytes of f.
func (w *writer) sendFile(f *os.File, size int64) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	var n int64
	for n < size {
		w.arm()
		m, err := io.CopyN(w.ResponseWriter, f, min(size-n, sendSize))
		n += m
		w.written += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// onlyWriter hides ReadFrom from io.CopyBuffer.
type onlyWriter struct{ io.Writer }

// arm moves the deadline of writes. It does so at most eight times in a stall,
// because a timer costs more than a small write.
func (w *writer) arm() {
	now := time.Now()
	if now.Sub(w.armed) < w.stall/8 {
		return
	}
	w.armed = now
	// A ResponseWriter without deadlines (a test's recorder) cannot stall.
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(now.Add(w.stall))
}
