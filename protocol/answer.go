package protocol

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// answer writes a successful answer.
func (h *handler) answer(w *writer, r *http.Request, m meta, a *Answer) {
	head := w.Header()
	head["Content-Type"] = m.contentType
	head["Cache-Control"] = m.cacheControl
	head["X-Content-Type-Options"] = nosniff
	if a.Age > 0 {
		head["Age"] = []string{strconv.FormatInt(int64(a.Age/time.Second), 10)}
	}
	if a.Source != "" {
		head["Meshproxy-Source"] = []string{a.Source}
	}
	if tag := etag(a); tag != "" {
		head["Etag"] = []string{tag}
	}
	if len(r.Header["Range"]) > 0 {
		fitRange(r)
	}
	switch plain := isPlain(r); {
	case a.Stream != nil && (plain || a.Content == nil):
		h.stream(w, r, a)
	case a.Content != nil:
		h.content(w, r, a, a.Content)
	case plain:
		writeData(w, r, a)
	default:
		h.content(w, r, a, bytes.NewReader(a.Data))
	}
}

// etag returns the answer's entity tag in quotes, or "".
func etag(a *Answer) string {
	if a.ETag != "" {
		return `"` + a.ETag + `"`
	}
	if a.Content != nil || a.Stream != nil {
		return ""
	}
	sum := sha256.Sum256(a.Data)
	var tag [2 + 2*16]byte // half a SHA-256 is plenty to tell versions of one URL apart
	tag[0], tag[len(tag)-1] = '"', '"'
	hex.Encode(tag[1:], sum[:16])
	return string(tag[:])
}

// fitRange drops a Range in units other than bytes, which RFC 9110 has ignored and
// http.ServeContent refuses, and spells the unit as that wants it. It drops several
// ranges at once too, as RFC 9110 allows: for these http.ServeContent reads in a
// goroutine of its own, and that may go on reading what is closed and in other hands
// by then, when the client has hung up.
func fitRange(r *http.Request) {
	const known = "bytes"
	unit, set, _ := strings.Cut(r.Header.Get("Range"), "=")
	if !strings.EqualFold(unit, known) || strings.Contains(set, ",") {
		r.Header.Del("Range")
		return
	}
	r.Header.Set("Range", known+"="+set)
}

// isPlain reports whether a request is neither conditional nor for a range: the
// go command's requests never are.
func isPlain(r *http.Request) bool {
	for _, key := range [...]string{"If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range"} {
		if len(r.Header[key]) > 0 {
			return false
		}
	}
	return true
}

// writeData writes small content without the detour of http.ServeContent.
func writeData(w *writer, r *http.Request, a *Answer) {
	head := w.Header()
	head["Accept-Ranges"] = acceptRanges
	head["Content-Length"] = []string{strconv.Itoa(len(a.Data))}
	if !a.Modtime.IsZero() {
		head["Last-Modified"] = []string{a.Modtime.UTC().Format(http.TimeFormat)}
	}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(a.Data) // an error is the client's, which is gone
	}
}

var acceptRanges = []string{"bytes"}

// content writes what is held whole, and cuts the connection if it cannot be
// read after all.
func (h *handler) content(w *writer, r *http.Request, a *Answer, content io.ReadSeeker) {
	if f, ok := content.(*os.File); ok { // a short file ends below Content-Length, so that the server cuts the connection
		http.ServeContent(w, r, "", a.Modtime, f)
		return
	}
	c := &watched{ReadSeeker: content}
	http.ServeContent(w, r, "", a.Modtime, c)
	if c.err != nil {
		h.abort(w, r, c.err)
	}
}

// watched remembers a read error: http.ServeContent tells nobody.
type watched struct {
	io.ReadSeeker
	err error
}

func (c *watched) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// stream writes content as it comes. If it is still arriving ranges cannot be
// had, so the answer is whole, as the standard allows.
func (h *handler) stream(w *writer, r *http.Request, a *Answer) {
	head := w.Header()
	if a.Content != nil {
		head["Accept-Ranges"] = acceptRanges
	}
	if !a.Modtime.IsZero() {
		head["Last-Modified"] = []string{a.Modtime.UTC().Format(http.TimeFormat)}
	}
	if tag := head["Etag"]; len(tag) > 0 && r.Header.Get("If-None-Match") == tag[0] {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if a.Size >= 0 {
		head["Content-Length"] = []string{strconv.FormatInt(a.Size, 10)}
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	_, err := a.Stream.WriteTo(w)
	switch {
	case err == nil && (a.Size < 0 || w.written == a.Size):
		if w.status == 0 {
			w.WriteHeader(http.StatusOK)
		}
	case err == nil:
		h.abort(w, r, Errorf(http.StatusBadGateway, "content of %d bytes instead of %d", w.written, a.Size))
	case w.status == 0:
		h.fail(w, r, err)
	default:
		h.abort(w, r, err)
	}
}

// abort cuts the connection: a clean end would make a part look whole.
func (h *handler) abort(w *writer, r *http.Request, err error) {
	w.cut = true
	if r.Context().Err() == nil && w.err == nil {
		h.o.Log.Warn("answer cut off", "path", r.URL.Path, "request", w.id, "bytes", w.written, "error", err)
	}
	panic(http.ErrAbortHandler)
}

// fail writes an error.
func (h *handler) fail(w *writer, r *http.Request, err error) {
	var to *Redirect
	if errors.As(err, &to) {
		h.redirect(w, r, to)
		return
	}
	status := StatusOf(err)
	w.told = err
	if status >= http.StatusInternalServerError && context.Cause(r.Context()) == nil {
		h.o.Log.Warn("request failed", "path", r.URL.Path, "request", w.id, "status", status, "error", err)
	}
	text := ErrorText(err.Error())
	if text == "" {
		text = http.StatusText(status)
	}
	head := w.Header()
	for _, key := range [...]string{"Etag", "Age", "Last-Modified", "Accept-Ranges"} {
		delete(head, key)
	}
	head["Content-Type"] = textPlain
	head["Cache-Control"] = noStore
	head["X-Content-Type-Options"] = nosniff
	head["Content-Length"] = []string{strconv.Itoa(len(text) + 1)}
	if status == http.StatusMethodNotAllowed {
		head["Allow"] = []string{"GET, HEAD"}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		io.WriteString(w, text+"\n") // an error is the client's, which is gone
	}
}
