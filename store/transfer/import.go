package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// Candidate is a file of a tree that claims to be one of a release. Nothing of it
// has been checked but the shape of its name and its size.
type Candidate struct {
	Name verify.Name
	Path string   // in the tree
	Data []byte   // info, mod: the bytes
	Zip  *os.File // zip: open for reading until Admit returns
	Size int64    // bytes of Data or Zip
}

// ImportOptions says what to import.
type ImportOptions struct {
	Format Format // detected when empty
	// Have reports whether a file is held already, and is skipped; so an import
	// that was interrupted goes on where it was. Nil has nothing.
	Have func(verify.Name) bool
	// Want selects what is imported; nil all.
	Want func(verify.Name) bool
	// Admit verifies and keeps a candidate. It is called several at a time. Its
	// error is the reason why the candidate is refused, unless it is one after
	// which nothing can be kept (store.ErrFull, ErrFailed, ErrClosed): that ends
	// the import.
	Admit func(ctx context.Context, c *Candidate) error
	// Workers is how many candidates are admitted at a time; 4 when 0.
	Workers  int
	Progress func(store.Progress) // called by one goroutine at a time
}

// Refusal is a file that was not imported.
type Refusal struct {
	Path string
	Err  error
}

// maxRefusals bounds a report.
const maxRefusals = 10_000

// Report says what an import or an export did.
type Report struct {
	Done     int64     // files imported or written
	Skipped  int64     // files that were there already
	Bytes    int64     // of the files that were imported or written
	Refusals int64     // files that were not taken
	Refused  []Refusal // the first 10,000 of them
}

// Import walks through a tree and hands each file of a release to o.Admit.
func Import(ctx context.Context, dir string, o ImportOptions) (*Report, error) {
	im := importer{o: o, root: dir}
	if o.Progress == nil {
		im.o.Progress = func(store.Progress) {}
	}
	if o.Workers <= 0 {
		im.o.Workers = 4
	}
	var err error
	if o.Format == "" {
		im.root, im.o.Format, err = Detect(dir)
	} else if o.Format == ModCache {
		if root, f, derr := Detect(dir); derr == nil && f == ModCache {
			im.root = root
		}
	}
	if err == nil {
		err = im.run(ctx)
	}
	if err != nil {
		return &im.report, fmt.Errorf("import %s: %w", dir, err)
	}
	return &im.report, nil
}

type importer struct {
	o    ImportOptions
	root string

	mu     sync.Mutex // guards what follows
	report Report
	total  int64
}

func (im *importer) run(ctx context.Context) error {
	err := walk(ctx, im.root, im.o.Format, func(f file) error {
		if im.wants(f) {
			im.total++
		}
		return nil
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(im.o.Workers)
	err = walk(ctx, im.root, im.o.Format, func(f file) error {
		if !im.wants(f) {
			return nil
		}
		g.Go(func() error { return im.one(ctx, f) })
		return ctx.Err()
	})
	if werr := g.Wait(); werr != nil {
		return werr
	}
	return err
}

func (im *importer) wants(f file) bool {
	return im.o.Want == nil || f.name.Kind == "" || im.o.Want(f.name)
}

// one takes one file in. Its error ends the import.
func (im *importer) one(ctx context.Context, f file) error {
	if f.err == nil && im.o.Have != nil && im.o.Have(f.name) {
		im.count(f, 0, true, nil)
		return nil
	}
	size, err := f.size, f.err
	if err == nil {
		size, err = im.admit(ctx, f)
	}
	if fatal(ctx, err) {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	im.count(f, size, false, err)
	return nil
}

func fatal(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil ||
		errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrFailed) || errors.Is(err, store.ErrClosed))
}

func (im *importer) admit(ctx context.Context, f file) (int64, error) {
	in, size, err := open(im.root, f)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	c := &Candidate{Name: f.name, Path: f.path, Size: size}
	if f.name.Kind == verify.Zip {
		c.Zip = in
		return size, im.o.Admit(ctx, c)
	}
	c.Data, err = io.ReadAll(io.LimitReader(in, limit(f.name.Kind)+1))
	if err == nil && int64(len(c.Data)) > limit(f.name.Kind) {
		err = fmt.Errorf("over %d bytes", limit(f.name.Kind))
	}
	if err != nil {
		return 0, err
	}
	c.Size = int64(len(c.Data))
	return c.Size, im.o.Admit(ctx, c)
}

func (im *importer) count(f file, size int64, skipped bool, err error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	r := &im.report
	switch {
	case err != nil:
		r.refuse(f.path, err)
	case skipped:
		r.Skipped++
	default:
		r.Done++
		r.Bytes += size
	}
	im.o.Progress(store.Progress{Done: r.Done + r.Skipped + r.Refusals, Total: im.total, Bytes: r.Bytes, Current: f.path})
}

func (r *Report) refuse(path string, err error) {
	r.Refusals++
	if len(r.Refused) < maxRefusals {
		r.Refused = append(r.Refused, Refusal{path, err})
	}
}
