package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// ExportOptions says what to export.
type ExportOptions struct {
	Want     func(module.Version) bool // nil: all releases
	Progress func(store.Progress)
}

// Export writes the releases of a store to dir as a GOPROXY of files, which works
// as GOPROXY=file://DIR. A file that is there already is compared, and written
// again if it differs. Zips that are not held are left out, and so are damaged
// ones, which are among the refused.
func Export(ctx context.Context, s *store.Store, dir string, o ExportOptions) (*Report, error) {
	if o.Progress == nil {
		o.Progress = func(store.Progress) {}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return &Report{}, fmt.Errorf("export: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &Report{}, fmt.Errorf("export: %w", err)
	}
	defer root.Close()
	e := exporter{s: s, o: o, root: root}
	if err := e.run(ctx); err != nil {
		return &e.report, fmt.Errorf("export to %s: %w", dir, err)
	}
	return &e.report, nil
}

type exporter struct {
	s      *store.Store
	o      ExportOptions
	root   *os.Root // so that no link in the tree leads out of it
	report Report
	p      store.Progress
}

func (e *exporter) run(ctx context.Context) error {
	// The list of releases is short beside their contents; reading it first gives
	// a total, and holds no snapshot of the store for as long as writing takes.
	var releases []store.Release
	err := e.s.Releases(ctx, func(r store.Release) error {
		if e.o.Want == nil || e.o.Want(r.Module) {
			releases = append(releases, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.p.Total = int64(len(releases))
	for len(releases) > 0 {
		n := 1
		for n < len(releases) && releases[n].Module.Path == releases[0].Module.Path {
			n++
		}
		if err := e.module(ctx, releases[:n]); err != nil {
			return err
		}
		releases = releases[n:]
	}
	return nil
}

// module writes all versions of a module, and then what answers queries.
func (e *exporter) module(ctx context.Context, releases []store.Release) error {
	escaped, err := module.EscapePath(releases[0].Module.Path)
	if err != nil {
		e.report.refuse(releases[0].Module.Path, err)
		return nil
	}
	base := filepath.FromSlash(escaped)
	if err := e.root.MkdirAll(filepath.Join(base, "@v"), 0o755); err != nil {
		return err
	}
	var infos []*verify.Signed
	for _, r := range releases {
		e.p.Done++
		e.p.Current = r.Module.String()
		e.o.Progress(e.p)
		info, err := e.release(ctx, base, r)
		if err != nil {
			return err
		}
		if info != nil {
			infos = append(infos, info)
		}
	}
	return e.queries(base, infos)
}

// release writes the files of a version and returns the record of its .info.
func (e *exporter) release(ctx context.Context, base string, r store.Release) (info *verify.Signed, err error) {
	version, err := module.EscapeVersion(r.Module.Version)
	if err != nil {
		e.report.refuse(r.Module.String(), err)
		return nil, nil
	}
	for _, kind := range r.Kinds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := verify.Name{Module: r.Module, Kind: kind}
		rec, err := e.s.Record(n)
		if err == nil {
			err = e.one(ctx, filepath.Join(base, "@v", version+"."+string(kind)), rec)
		}
		switch {
		case errors.Is(err, store.ErrDamaged):
			e.report.refuse(n.String(), err)
		case errors.Is(err, store.ErrNotFound): // a zip that was dropped
		case err != nil:
			return nil, fmt.Errorf("%s: %w", n, err)
		case kind == verify.Info:
			info = rec
		}
	}
	return info, nil
}

func (e *exporter) one(ctx context.Context, name string, rec *verify.Signed) error {
	if rec.Record.Name.Kind != verify.Zip {
		return e.write(ctx, name, int64(len(rec.Record.Data)), func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(rec.Record.Data)), nil
		})
	}
	z, err := e.s.OpenZip(rec.Record.Digest)
	if err != nil {
		return err
	}
	defer z.Close()
	return e.write(ctx, name, z.Size(), func() (io.ReadCloser, error) {
		_, err := z.Seek(0, io.SeekStart)
		return io.NopCloser(z), err
	})
}

// write makes a file have the content, unless it has already.
func (e *exporter) write(ctx context.Context, name string, size int64, content func() (io.ReadCloser, error)) error {
	same, err := e.same(ctx, name, size, content)
	if err != nil {
		return err
	}
	if same {
		e.report.Skipped++
		return nil
	}
	r, err := content()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := e.replace(ctx, name, r); err != nil {
		return err
	}
	e.report.Done++
	e.report.Bytes += size
	e.p.Bytes = e.report.Bytes
	return nil
}

// replace writes a file under another name first, so that nobody ever sees half of
// it under its own.
func (e *exporter) replace(ctx context.Context, name string, r io.Reader) error {
	tmp := name + ".partial"
	out, err := e.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, contextReader{ctx, r})
	if err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = e.root.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, e.root.Remove(tmp))
	}
	return nil
}

func (e *exporter) same(ctx context.Context, name string, size int64, content func() (io.ReadCloser, error)) (bool, error) {
	old, err := e.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer old.Close()
	info, err := old.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != size {
		return false, err
	}
	r, err := content()
	if err != nil {
		return false, err
	}
	defer r.Close()
	return equal(contextReader{ctx, old}, r)
}

// equal reports whether two readers give the same bytes.
func equal(a, b io.Reader) (bool, error) {
	const size = 64 << 10
	x, y := make([]byte, size), make([]byte, size)
	for {
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		for _, e := range []error{err, err2} {
			if e != nil && e != io.EOF && !errors.Is(e, io.ErrUnexpectedEOF) {
				return false, e
			}
		}
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if n < size {
			return true, nil
		}
	}
}

// queries writes what answers for the newest version: the list, which has no
// pseudo-versions, and @latest, which the go command asks for when the list is
// empty.
func (e *exporter) queries(base string, infos []*verify.Signed) error {
	if len(infos) == 0 {
		return nil
	}
	var list []string
	latest := infos[0]
	for _, info := range infos {
		v := info.Record.Name.Module.Version
		if !module.IsPseudoVersion(v) {
			list = append(list, v)
		}
		if newer(v, latest.Record.Name.Module.Version) {
			latest = info
		}
	}
	semver.Sort(list)
	text := strings.Join(append(list, ""), "\n")
	if err := e.replace(context.Background(), filepath.Join(base, "@v", "list"), strings.NewReader(text)); err != nil {
		return err
	}
	return e.replace(context.Background(), filepath.Join(base, "@latest"), bytes.NewReader(latest.Record.Data))
}

// newer orders versions as the go command chooses a latest one: releases before
// pre-releases before pseudo-versions, and then by precedence.
func newer(a, b string) bool {
	if ra, rb := rank(a), rank(b); ra != rb {
		return ra > rb
	}
	return semver.Compare(a, b) > 0
}

func rank(v string) int {
	switch {
	case module.IsPseudoVersion(v):
		return 0
	case semver.Prerelease(v) != "":
		return 1
	}
	return 2
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
