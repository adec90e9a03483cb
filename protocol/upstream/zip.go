package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/cenkalti/backoff/v5"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

// zip reads a zip, with retries.
func (p *proxy) zip(ctx context.Context, n verify.Name, target string) (_ *Fetched, err error) {
	if err := p.zips.Acquire(ctx, 1); err != nil {
		return nil, failure(n.String(), p.label, err)
	}
	defer p.zips.Release(1)
	d := &download{p: p, what: n.String(), target: target, spool: spool{dir: p.o.TempDir}}
	f := &Fetched{Name: n, Source: p.label}
	defer func() {
		f.File = d.spool.file
		if err != nil {
			f.Close()
		}
	}()
	if f.Size, err = d.run(ctx); err != nil {
		return nil, err
	}
	if d.spool.file == nil {
		f.Data = d.spool.buf.Bytes()
		return f, nil
	}
	if _, err := d.spool.file.Seek(0, io.SeekStart); err != nil {
		return nil, protocol.Errorf(http.StatusInternalServerError, "%s: %w", n, err)
	}
	return f, nil
}

// maxInMemory is the size of a zip, in bytes, up to which it needs no file while it
// is checked: nine of ten are smaller, and a file costs more than its bytes.
const maxInMemory = 1 << 20

// spool takes what comes in memory, and in a temporary file once it is too much.
type spool struct {
	dir  string
	buf  bytes.Buffer // while file is nil
	file *os.File
}

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && s.buf.Len()+len(p) <= maxInMemory {
		return s.buf.Write(p)
	}
	if s.file == nil {
		file, err := os.CreateTemp(s.dir, "fetch-*.zip")
		if err != nil {
			return 0, err
		}
		s.file = file
		if _, err := file.Write(s.buf.Bytes()); err != nil {
			return 0, err
		}
		s.buf = bytes.Buffer{}
	}
	return s.file.Write(p)
}

// reset forgets what came, and makes room for size bytes if that is known and little.
func (s *spool) reset(size int64) error {
	if s.file == nil {
		s.buf.Reset()
		if size > 0 && size <= maxInMemory {
			s.buf.Grow(int(size))
		}
		return nil
	}
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return err
}

// download is a zip on its way. One that breaks off goes on where it was, if the
// upstream can say that what it has is still the same; what came is checked as a
// whole afterwards, whoever sent it.
type download struct {
	p            *proxy
	what, target string
	spool        spool
	have         int64  // bytes in spool
	tag          string // strong validator of what they are the beginning of; "" if there is none
}

// run returns the size. It gives up after maxTries that brought nothing new.
func (d *download) run(ctx context.Context) (int64, error) {
	for {
		before := d.have
		size, err := retry(ctx, d.p, d.what, func() (int64, error) { return d.try(ctx) })
		if err == nil || d.tag == "" || d.have <= before || ctx.Err() != nil || d.have >= verify.MaxZip {
			return size, err
		}
	}
}

func (d *download) try(ctx context.Context) (int64, error) {
	b, resp, err := d.p.open(ctx, d.what, d.target, d.header(), verify.MaxZip)
	if resp != nil && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && d.have > 0 {
		d.have, d.tag = 0, "" // from the beginning, then
		return 0, failure(d.what, d.p.label, errors.New("it has no such range"))
	}
	if err != nil {
		return 0, err
	}
	defer b.Close()
	if err := d.place(resp, b); err != nil {
		return 0, err
	}
	n, err := io.Copy(&d.spool, b)
	d.have += n
	var local *fs.PathError
	switch {
	case errors.As(err, &local):
		return 0, d.local(err)
	case err != nil:
		return 0, d.p.broken(ctx, d.what, err)
	}
	return d.have, nil
}

// header asks for the rest of what is there.
func (d *download) header() http.Header {
	if d.tag == "" || d.have == 0 {
		return nil
	}
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-", d.have)}, "If-Range": {d.tag}}
}

// place sees to it that what comes belongs behind what is there, and remembers what
// it is.
func (d *download) place(resp *http.Response, b *body) error {
	if resp.StatusCode == http.StatusPartialContent {
		var from, to int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/", &from, &to); err != nil || from != d.have || to < from {
			d.tag = ""
			return failure(d.what, d.p.label, fmt.Errorf("answer for the range %.80q, asked from %d", resp.Header.Get("Content-Range"), d.have))
		}
		b.limit -= d.have
		return nil
	}
	d.have, d.tag = 0, validator(resp.Header)
	if err := d.spool.reset(resp.ContentLength); err != nil {
		return d.local(err)
	}
	return nil
}

// local is the error of this node's own disk, which no retry helps.
func (d *download) local(err error) error {
	return backoff.Permanent(protocol.Errorf(http.StatusInternalServerError, "%s: %w", d.what, err))
}

// validator is what If-Range takes: a strong entity tag. A time is none, since
// what changes twice in a second has one.
func validator(h http.Header) string {
	const longest = 256
	tag := h.Get("ETag")
	if len(tag) < 2 || len(tag) > longest || !strings.HasPrefix(tag, `"`) || !strings.HasSuffix(tag, `"`) {
		return ""
	}
	return tag
}
