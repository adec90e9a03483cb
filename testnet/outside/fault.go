package outside

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault is one way in which a server breaks. It says which requests it meets, and
// what becomes of their answers; effects can be combined. A connection refused is
// no fault but Server.Stop.
type Fault struct {
	// Which requests meet the fault: of these kinds (none: all), whose path
	// contains Path, the first Times of them (0: all), and each Every-th only
	// (0 or 1: each).
	Kinds []Kind
	Path  string
	Times int
	Every int

	// What happens then. Delay passes before the first byte of the answer.
	Delay time.Duration
	// Hang keeps the connection open and sends nothing until it is cut.
	Hang bool
	// Drop cuts the connection before any answer.
	Drop bool
	// Status answers with this status and Text; redirects lead to Location, and
	// without one to the same path: a circle.
	Status   int
	Text     string
	Location string
	// Edit changes the body of a good answer.
	Edit func(r Request, body []byte) []byte
	// Truncate announces the whole body, sends half and cuts the connection.
	Truncate bool
	// Stall announces the whole body, sends half and then nothing.
	Stall bool
	// Short announces this many bytes less than the body that is sent.
	Short int
	// Pace sends the body in pieces of 4 KiB with this pause before each.
	Pace time.Duration

	met int // requests that matched; guarded by Server.mu
}

// Break adds a fault; the first of several that match wins. The returned function
// mends it.
func (s *Server) Break(f Fault) (mend func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, have := range s.faults {
			if have == &f {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
				return
			}
		}
	}
}

// hits says whether the fault meets the request, and counts it. The server's lock
// is held.
func (f *Fault) hits(r Request) bool {
	if len(f.Kinds) > 0 {
		found := false
		for _, k := range f.Kinds {
			found = found || k == r.Kind
		}
		if !found {
			return false
		}
	}
	if !strings.Contains(r.Path, f.Path) {
		return false
	}
	f.met++
	if f.Every > 1 && f.met%f.Every != 0 {
		return false
	}
	return f.Times == 0 || f.met <= f.Times*max(f.Every, 1)
}

func (f *Fault) serve(w *countingWriter, req *http.Request, content http.Handler) {
	if f.Delay > 0 && !pause(req, f.Delay) {
		return
	}
	switch {
	case f.Hang:
		<-req.Context().Done()
		return
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.Status/100 == 3:
		location := f.Location
		if location == "" {
			location = req.URL.Path
		}
		http.Redirect(w, req, location, f.Status)
		return
	case f.Status != 0:
		http.Error(w, f.Text, f.Status)
		return
	}
	if f.Edit == nil && !f.Truncate && !f.Stall && f.Short == 0 && f.Pace == 0 {
		content.ServeHTTP(w, req) // late, but as it is
		return
	}
	whole := recorder{header: w.Header(), status: http.StatusOK}
	content.ServeHTTP(&whole, req)
	body := whole.body.Bytes()
	if f.Edit != nil && whole.status == http.StatusOK {
		body = f.Edit(Classify(req), body)
	}
	f.send(w, req, whole.status, body)
}

// recorder keeps an answer for a fault to work on. That of net/http/httptest is for
// tests, and this package is in a program.
type recorder struct {
	header http.Header
	status int
	sent   bool // the status is fixed
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if !r.sent {
		r.status, r.sent = status, true
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	r.sent = true
	return r.body.Write(p)
}

// send writes the body, as far and as fast as the fault lets it.
func (f *Fault) send(w *countingWriter, req *http.Request, status int, body []byte) {
	if f.Short > 0 {
		f.sendShort(w, status, body)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	rest := body
	if f.Truncate || f.Stall {
		rest = body[:len(body)/2]
	}
	for f.Pace > 0 && len(rest) > 0 {
		if !pause(req, f.Pace) {
			return
		}
		n := min(len(rest), 4<<10)
		if _, err := w.Write(rest[:n]); err != nil {
			return
		}
		http.NewResponseController(w).Flush()
		rest = rest[n:]
	}
	w.Write(rest)
	http.NewResponseController(w).Flush()
	switch {
	case f.Truncate:
		panic(http.ErrAbortHandler)
	case f.Stall:
		<-req.Context().Done()
	}
}

// sendShort writes by hand what net/http would not: a Content-Length below the
// length of the body.
func (f *Fault) sendShort(w *countingWriter, status int, body []byte) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err) // HTTP/1 on a plain connection: it can always be had
	}
	defer conn.Close()
	w.status, w.bytes = status, int64(len(body))
	fmt.Fprintf(rw, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n",
		status, http.StatusText(status), max(len(body)-f.Short, 0), w.Header().Get("Content-Type"))
	rw.Write(body)
	rw.Flush()
}

// pause waits, and reports whether the client is still there.
func pause(req *http.Request, d time.Duration) bool {
	select {
	case <-req.Context().Done():
		return false
	case <-time.After(d):
		return true
	}
}

// FlipByte is an Edit that changes one bit in the middle of a body.
func FlipByte(_ Request, body []byte) []byte {
	body = bytes.Clone(body)
	if len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	return body
}

// Forge is an Edit that a clever liar would make: a valid zip of the same files
// with one more comment in each Go file, a valid go.mod with one more line; other
// bodies stay.
func Forge(r Request, body []byte) []byte {
	switch r.Kind {
	case Mod:
		return append(bytes.Clone(body), "\n// forged\n"...)
	case Zip:
		return forgeZip(body)
	}
	return body
}

func forgeZip(body []byte) []byte {
	zr, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		panic(err) // the body is the World's own
	}
	var out bytes.Buffer
	zw := zip.NewWriter(&out)
	for _, f := range zr.File {
		if err := forgeFile(zw, f); err != nil {
			panic(err)
		}
	}
	if err := zw.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func forgeFile(zw *zip.Writer, f *zip.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := zw.Create(f.Name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	if strings.HasSuffix(f.Name, ".go") {
		_, err = io.WriteString(w, "\n// forged\n")
	}
	return err
}
