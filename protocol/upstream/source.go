package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

// Fetched is a file of a module version as an upstream gave it, not verified.
type Fetched struct {
	Name   verify.Name
	Data   []byte   // .info, .mod, and a .zip that is small
	File   *os.File // any other .zip: a temporary file, read from the start; it is gone after Close
	Size   int64    // bytes of Data or File
	Source string   // "direct", or the proxy's host
	// Also holds other files of the same version that came with this one for
	// free: "direct" makes .info and .mod at once, and all three for a zip.
	Also []*Fetched
}

// Close releases the temporary files of f and of all in f.Also.
func (f *Fetched) Close() error {
	var errs []error
	if f.File != nil {
		errs = append(errs, f.File.Close(), removeTemp(f.File.Name()))
	}
	for _, other := range f.Also {
		errs = append(errs, other.Close())
	}
	return errors.Join(errs...)
}

// Content reads Data or File.
func (f *Fetched) Content() io.ReaderAt {
	if f.File != nil {
		return f.File
	}
	return bytes.NewReader(f.Data)
}

// Path is where a program can read the content: that of File, which is made in dir
// if there is none.
func (f *Fetched) Path(dir string) (string, error) {
	if f.File != nil {
		return f.File.Name(), nil
	}
	file, err := os.CreateTemp(dir, "fetch-*")
	if err != nil {
		return "", err
	}
	if _, err := file.Write(f.Data); err != nil {
		return "", errors.Join(err, file.Close(), removeTemp(file.Name()))
	}
	f.File = file
	return file.Name(), nil
}

func removeTemp(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List is the versions of a module as one upstream knows them.
type List struct {
	protocol.Versions
	Source string
}

// source is one place to ask.
type source interface {
	name() string // for messages, and as Fetched.Source: no password in it
	file(ctx context.Context, n verify.Name) (*Fetched, error)
	query(ctx context.Context, mod, rev string) (*Fetched, error)
	latest(ctx context.Context, mod string) (*Fetched, error)
	list(ctx context.Context, mod string) (*List, error)
}

// off refuses everything, as GOPROXY=off does.
type off struct{}

func (off) name() string { return "off" }

func (off) refuse(mod string) error {
	return protocol.NotFound("%s: module lookup disabled by GOPROXY=off of this node", mod)
}
func (o off) file(_ context.Context, n verify.Name) (*Fetched, error) {
	return nil, o.refuse(n.String())
}
func (o off) query(_ context.Context, mod, rev string) (*Fetched, error) {
	return nil, o.refuse(mod + "@" + rev)
}
func (o off) latest(_ context.Context, mod string) (*Fetched, error) { return nil, o.refuse(mod) }
func (o off) list(_ context.Context, mod string) (*List, error)      { return nil, o.refuse(mod) }

// File fetches one file of a module version. The caller closes it.
func (u *Upstreams) File(ctx context.Context, n verify.Name) (*Fetched, error) {
	if err := n.Check(); err != nil {
		return nil, badName(err)
	}
	return try(ctx, u, n.Module.Path, func(s source) (*Fetched, error) { return s.file(ctx, n) })
}

// Query fetches the .info of the canonical version that rev, a branch, tag, hash
// or hash prefix, stands for now. Its Name has that version. The bytes may differ
// from those of that version's own .info (they tell the ref), so they are no
// answer to File.
func (u *Upstreams) Query(ctx context.Context, mod, rev string) (*Fetched, error) {
	if err := protocol.CheckQuery(mod, rev); err != nil {
		return nil, err
	}
	return try(ctx, u, mod, func(s source) (*Fetched, error) { return s.query(ctx, mod, rev) })
}

// Latest fetches the .info of the newest version of a module. An upstream without
// @latest is asked for its list. As with Query, the bytes are no answer to File.
func (u *Upstreams) Latest(ctx context.Context, mod string) (*Fetched, error) {
	if err := module.CheckPath(mod); err != nil {
		return nil, badName(err)
	}
	return try(ctx, u, mod, func(s source) (*Fetched, error) { return s.latest(ctx, mod) })
}

// List fetches the versions of a module.
func (u *Upstreams) List(ctx context.Context, mod string) (*List, error) {
	if err := module.CheckPath(mod); err != nil {
		return nil, badName(err)
	}
	return try(ctx, u, mod, func(s source) (*List, error) { return s.list(ctx, mod) })
}

func badName(err error) error {
	return protocol.Errorf(http.StatusBadRequest, "bad request: %w", err)
}

// The ranks of errors, as the go command weighs them: what a user can act on best.
const (
	rankNotFound = iota
	rankProxy
	rankDirect
)

// try asks the entries in order, by the go command's rules: after "," only a
// 404 or 410 leads to the next one, after "|" any error does. The error is the
// most telling one: of "direct", else one that is not "not found".
func try[T any](ctx context.Context, u *Upstreams, mod string, ask func(source) (T, error)) (T, error) {
	if u.isDirectOnly(mod) {
		return ask(u.direct)
	}
	var zero T
	var best error
	rank := rankNotFound
	for _, e := range u.entries {
		got, err := ask(e.source)
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return zero, err
		}
		notFound := protocol.IsNotFound(err)
		switch {
		case e.source == source(u.direct):
			best, rank = err, rankDirect
		case rank <= rankProxy && !notFound:
			best, rank = err, rankProxy
		case rank == rankNotFound:
			best = err
		}
		if !e.fallback && !notFound {
			break
		}
		u.o.Log.Debug("upstream refused", "module", mod, "upstream", e.source.name(), "error", err)
	}
	return zero, best
}
