package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/store/transfer"
	"github.com/meshproxy/meshproxy/verify"
)

// Transfer is the part of Control that brings modules in from trees of files, or
// for a project, and writes such trees. All of it can be interrupted, and goes on
// from there when it is asked for again.
type Transfer interface {
	// Import takes in a module cache, a GOPROXY of files or Athens' disk storage,
	// through the door that everything comes through. An office that does not run
	// cannot: it is ErrNotRunning.
	Import(ctx context.Context, tree Tree, progress func(store.Progress)) (*Transferred, error)
	// Prefetch obtains these files as if a client had asked for them. It is
	// ErrNotRunning for an office that does not run.
	Prefetch(ctx context.Context, files []verify.Name, progress func(store.Progress)) (*Transferred, error)
	// Export writes what is held as a GOPROXY of files: all, or the module versions
	// of some files.
	Export(ctx context.Context, e Export, progress func(store.Progress)) (*Transferred, error)
	// Modules calls each with what the zips of each module take whose path is prefix
	// or below it, sorted by path.
	Modules(ctx context.Context, prefix string, each func(store.Usage) error) error
}

// Tree is a directory to import.
type Tree struct {
	Dir    string          `json:"dir"`              // absolute
	Format transfer.Format `json:"format,omitempty"` // detected when empty
}

// Export says what to write where.
type Export struct {
	Dir  string        `json:"dir"`            // absolute; made if it is not there
	Only bool          `json:"only,omitempty"` // not everything, but what is in Want
	Want []verify.Name `json:"want,omitempty"`
}

// Transferred is what an import, a prefetch or an export did. Sizes are bytes.
type Transferred struct {
	Files    int64     `json:"files"`   // that came or were written
	Skipped  int64     `json:"skipped"` // that were there already
	Bytes    int64     `json:"bytes"`
	Refusals int64     `json:"refusals"`
	Refused  []Refused `json:"refused"` // the first 10,000
}

// Refused is a file that was not taken.
type Refused struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

const (
	// sourceImport stands in the records of files that were imported.
	sourceImport = "import"
	// importWorkers share syncs to disk and questions to the checksum database.
	importWorkers = 16
	// prefetchers is how many files a prefetch wants at a time, as the go command
	// would.
	prefetchers = 32
	// maxOutages is how many files in a row may find nobody who could vouch for
	// them before an import ends: the rest would fare no better.
	maxOutages = 2 * importWorkers
	maxRefused = 10_000
)

// errOutage ends an import.
var errOutage = errors.New("nobody is in reach who could vouch for the modules; do the same again when the checksum database is")

// Import implements Control.
func (n *Node) Import(ctx context.Context, tree Tree, progress func(store.Progress)) (*Transferred, error) {
	if !filepath.IsAbs(tree.Dir) {
		return nil, fmt.Errorf("import %q: want an absolute path", tree.Dir)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var outages atomic.Int32
	r, err := transfer.Import(ctx, tree.Dir, transfer.ImportOptions{
		Format: tree.Format, Have: n.has, Workers: importWorkers, Progress: progress,
		Admit: func(ctx context.Context, c *transfer.Candidate) error {
			err := n.admitCandidate(ctx, c)
			switch {
			case !errors.Is(err, verify.ErrUnavailable):
				if c.Name.Kind != verify.Info { // those need nobody else
					outages.Store(0)
				}
			case outages.Add(1) >= maxOutages:
				end(fmt.Errorf("%w: %w", errOutage, err))
			}
			return err
		},
	})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errOutage) {
		err = fmt.Errorf("import %s: %w", tree.Dir, cause)
	}
	return transferred(r), err
}

// admitCandidate takes one file of a tree in. An .info is vouched for by whoever
// signs its record, and trees hold other bytes than proxies serve: what the mesh
// has of it already counts, so that offices do not come into conflict.
func (n *Node) admitCandidate(ctx context.Context, c *transfer.Candidate) error {
	if c.Name.Kind == verify.Info {
		e := errand{Node: n, name: c.Name}
		if _, err := e.fromMesh(ctx); err == nil {
			return nil
		}
	}
	_, err := n.admit(ctx, &upstream.Fetched{Name: c.Name, Data: c.Data, File: c.Zip, Size: c.Size, Source: sourceImport}, nil)
	return err
}

func transferred(r *transfer.Report) *Transferred {
	t := &Transferred{Files: r.Done, Skipped: r.Skipped, Bytes: r.Bytes, Refusals: r.Refusals, Refused: []Refused{}}
	for _, f := range r.Refused {
		t.Refused = append(t.Refused, Refused{f.Path, f.Err.Error()})
	}
	return t
}

// Prefetch implements Control.
func (n *Node) Prefetch(ctx context.Context, files []verify.Name, progress func(store.Progress)) (*Transferred, error) {
	p := prefetch{n: n, report: &Transferred{Refused: []Refused{}}, total: int64(len(files)), progress: progress}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(prefetchers)
	for _, name := range files {
		g.Go(func() error { return p.one(ctx, name) })
	}
	return p.report, g.Wait()
}

type prefetch struct {
	n        *Node
	total    int64
	progress func(store.Progress) // may be nil

	mu     sync.Mutex // guards what follows
	report *Transferred
}

// one obtains a file. Its error ends the prefetch.
func (p *prefetch) one(ctx context.Context, name verify.Name) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	had := name.Check() == nil && p.n.has(name)
	var err error
	if !had {
		err = p.n.fetchAgain(ctx, name)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var size int64
	if signed, rerr := p.n.store.Record(name); err == nil && rerr == nil {
		size = signed.Record.Size
	}
	p.count(name, had, size, err)
	return nil
}

func (p *prefetch) count(name verify.Name, had bool, size int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.report
	switch {
	case err != nil:
		r.refuse(name.String(), err)
	case had:
		r.Skipped++
	default:
		r.Files++
		r.Bytes += size
	}
	if p.progress != nil {
		p.progress(store.Progress{Done: r.Files + r.Skipped + r.Refusals, Total: p.total, Bytes: r.Bytes, Current: name.String()})
	}
}

func (t *Transferred) refuse(file string, err error) {
	t.Refusals++
	if len(t.Refused) < maxRefused {
		t.Refused = append(t.Refused, Refused{file, err.Error()})
	}
}

// errNotHeld is why a file that an export should have is not in it.
var errNotHeld = errors.New("not held by this office; to get it: meshproxy import, with the project's directory")

// Export implements Control.
func (k *keeper) Export(ctx context.Context, e Export, progress func(store.Progress)) (*Transferred, error) {
	if !filepath.IsAbs(e.Dir) {
		return nil, fmt.Errorf("export to %q: want an absolute path", e.Dir)
	}
	o := transfer.ExportOptions{Progress: progress}
	if e.Only {
		want := make(map[module.Version]bool)
		for _, name := range e.Want {
			want[name.Module] = true
		}
		o.Want = func(m module.Version) bool { return want[m] }
	}
	r, err := transfer.Export(ctx, k.store, e.Dir, o)
	t := transferred(r)
	if err != nil {
		return t, err
	}
	for _, name := range e.Want {
		if !holds(k.store, name) {
			t.refuse(name.String(), errNotHeld)
		}
	}
	return t, nil
}

// holds reports whether a store has the bytes of a file.
func holds(s *store.Store, name verify.Name) bool {
	signed, err := s.Record(name)
	return err == nil && (name.Kind != verify.Zip || s.HasZip(signed.Record.Digest))
}

// Modules implements Control.
func (k *keeper) Modules(ctx context.Context, prefix string, each func(store.Usage) error) error {
	return k.store.Usage(ctx, prefix, each)
}

// Import implements Control, and is an error: who vouches must be asked.
func (o *Offline) Import(context.Context, Tree, func(store.Progress)) (*Transferred, error) {
	return nil, ErrNotRunning
}

// Prefetch implements Control, and is an error.
func (o *Offline) Prefetch(context.Context, []verify.Name, func(store.Progress)) (*Transferred, error) {
	return nil, ErrNotRunning
}

// Import implements Control.
func (c *Client) Import(ctx context.Context, tree Tree, progress func(store.Progress)) (*Transferred, error) {
	return askLong[*Transferred](ctx, c, "import", tree, progress)
}

// Prefetch implements Control.
func (c *Client) Prefetch(ctx context.Context, files []verify.Name, progress func(store.Progress)) (*Transferred, error) {
	return askLong[*Transferred](ctx, c, "prefetch", files, progress)
}

// Export implements Control.
func (c *Client) Export(ctx context.Context, e Export, progress func(store.Progress)) (*Transferred, error) {
	return askLong[*Transferred](ctx, c, "export", e, progress)
}

// Modules implements Control.
func (c *Client) Modules(ctx context.Context, prefix string, each func(store.Usage) error) error {
	return askStream(ctx, c, "modules", prefix, each)
}
