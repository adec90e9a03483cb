package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/semaphore"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

// direct fetches from version control, by running the go command.
type direct struct {
	o    Options
	runs *semaphore.Weighted // first come, first served

	mu   sync.Mutex
	vcs  string // directory of clones, shared by all runs; made by the first. Guarded by mu
	done int    // runs that have ended; guarded by mu
}

func newDirect(o Options) *direct {
	return &direct{o: o, runs: semaphore.NewWeighted(int64(o.Direct))}
}

func (d *direct) name() string { return "direct" }

// listed is what this package reads of the output of go list -m -json.
type listed struct {
	Version  string
	Versions []string
	Time     *time.Time
	Origin   json.RawMessage
	GoMod    string
	Error    *struct{ Err string }
}

// downloaded is what this package reads of the output of go mod download -json.
type downloaded struct {
	Version string
	Error   string
	Info    string
	GoMod   string
	Zip     string
}

// file makes .info and .mod without a zip, and all three where a zip is asked for.
func (d *direct) file(ctx context.Context, n verify.Name) (*Fetched, error) {
	var f *Fetched
	err := d.in(ctx, n.String(), n.Module.Path, n.Module.Version, func(r *run) error {
		var files []*Fetched
		var err error
		if n.Kind == verify.Zip {
			files, err = r.download(ctx, n.Module)
		} else {
			_, files, err = r.list(ctx, n.Module)
		}
		f = pick(files, n.Kind)
		if err == nil && f == nil {
			err = protocol.Errorf(http.StatusBadGateway, "%s: go command made no such file", n)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// pick returns the file of one kind with the others as its Also.
func pick(files []*Fetched, kind verify.Kind) *Fetched {
	var picked *Fetched
	var also []*Fetched
	for _, f := range files {
		if f.Name.Kind == kind {
			picked = f
		} else {
			also = append(also, f)
		}
	}
	if picked != nil {
		picked.Also = also
	}
	return picked
}

func (d *direct) query(ctx context.Context, mod, rev string) (*Fetched, error) {
	var f *Fetched
	err := d.in(ctx, mod+"@"+rev, mod, rev, func(r *run) error {
		l, files, err := r.list(ctx, module.Version{Path: mod, Version: rev})
		if err != nil {
			return err
		}
		f, err = l.info(mod, rev)
		if err == nil {
			f.Also = files
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *direct) latest(ctx context.Context, mod string) (*Fetched, error) {
	return d.query(ctx, mod, "latest")
}

// info writes the .info of a query, whose Origin tells the ref: the go command
// keeps no such file in its cache.
func (l *listed) info(mod, rev string) (*Fetched, error) {
	text, err := json.Marshal(struct {
		Version string
		Time    *time.Time      `json:",omitempty"`
		Origin  json.RawMessage `json:",omitempty"`
	}{l.Version, l.Time, l.Origin})
	if err == nil {
		_, err = protocol.ParseInfo(mod, "", text)
	}
	if err != nil {
		return nil, protocol.Errorf(http.StatusBadGateway, "%s@%s: go command: %w", mod, rev, err)
	}
	name := verify.Name{Module: module.Version{Path: mod, Version: l.Version}, Kind: verify.Info}
	return &Fetched{Name: name, Data: text, Size: int64(len(text)), Source: "direct"}, nil
}

func (d *direct) list(ctx context.Context, mod string) (*List, error) {
	var list *List
	err := d.in(ctx, mod+"@list", mod, "latest", func(r *run) error {
		// Retracted versions stay in lists: clients read retractions themselves.
		l, err := r.goList(ctx, module.Version{Path: mod, Version: "latest"}, "-versions", "-retracted")
		if err != nil {
			return err
		}
		list = &List{Versions: protocol.NewVersions(mod, append(l.Versions, l.Version)), Source: "direct"}
		return nil
	})
	return list, err
}

// in runs f in a directory that is gone afterwards.
func (d *direct) in(ctx context.Context, what, mod, rev string, f func(*run) error) error {
	if mod == "golang.org/toolchain" {
		return protocol.NotFound("%s: toolchains are at proxies only, not in version control", what)
	}
	if err := checkArgument(mod, rev); err != nil {
		return err
	}
	if err := d.runs.Acquire(ctx, 1); err != nil {
		return failure(what, "direct", err)
	}
	defer d.trim()
	defer d.runs.Release(1)
	ctx, cancel := context.WithTimeoutCause(ctx, d.o.Deadline, &errStalled{d.o.Deadline, "end of the go command"})
	defer cancel()
	r, err := d.newRun(what)
	if err != nil {
		return protocol.Errorf(http.StatusInternalServerError, "%s: directory for the go command: %w", what, err)
	}
	defer r.close()
	r.ctx = ctx
	return f(r)
}

// checkArgument refuses what the go command could take for anything but one
// module at one revision. Callers have validated both; this is the last gate
// before they become an argument.
func checkArgument(mod, rev string) error {
	if err := module.CheckPath(mod); err != nil {
		return badName(err)
	}
	if rev != "latest" {
		if err := protocol.CheckQuery(mod, rev); err != nil {
			return err
		}
	}
	if strings.Contains(mod, "...") || strings.ContainsAny(mod, "@ ") {
		return protocol.Errorf(http.StatusBadRequest, "bad request: %.200q is a pattern and no module path", mod)
	}
	return nil
}

// run is one clean directory for the go command.
type run struct {
	d    *direct
	ctx  context.Context
	what string
	dir  string
	env  []string
}

func (d *direct) newRun(what string) (*run, error) {
	vcs, err := d.clones()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(d.o.TempDir, "direct-*")
	if err != nil {
		return nil, err
	}
	r := &run{d: d, what: what, dir: dir, env: directEnv(environ(d.o.Env), dir)}
	for _, sub := range []string{"work", "tmp", filepath.Join("mod", "cache")} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			r.close()
			return nil, err
		}
	}
	// Without the link each run would clone again; it only costs time.
	_ = os.Symlink(vcs, filepath.Join(dir, "mod", "cache", "vcs"))
	return r, nil
}

func (r *run) close() {
	if err := os.RemoveAll(r.dir); err != nil {
		r.d.o.Log.Warn("directory of the go command stays behind", "dir", r.dir, "error", err)
	}
}

// list resolves a revision and reads .info and .mod of the version that it is.
func (r *run) list(ctx context.Context, m module.Version) (*listed, []*Fetched, error) {
	l, err := r.goList(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	resolved := module.Version{Path: m.Path, Version: l.Version}
	if !protocol.IsCanonical(resolved.Path, resolved.Version) || l.GoMod == "" {
		return nil, nil, protocol.Errorf(http.StatusBadGateway, "%s: go command: %.200q is no version of the module", r.what, l.Version)
	}
	files, err := r.small(resolved, strings.TrimSuffix(l.GoMod, ".mod")+".info", l.GoMod)
	return l, files, err
}

func (r *run) goList(_ context.Context, m module.Version, flags ...string) (*listed, error) {
	args := append([]string{"list", "-m", "-json"}, flags...)
	out, err := r.goCommand(append(args, "--", m.Path+"@"+m.Version)...)
	if err != nil {
		return nil, err
	}
	var l listed
	if err := json.Unmarshal(out, &l); err != nil {
		return nil, protocol.Errorf(http.StatusBadGateway, "%s: go list: %w", r.what, err)
	}
	if l.Error != nil {
		return nil, goError(r.what, l.Error.Err)
	}
	return &l, nil
}

// download makes all three files of a version.
func (r *run) download(_ context.Context, m module.Version) ([]*Fetched, error) {
	out, err := r.goCommand("mod", "download", "-json", "--", m.Path+"@"+m.Version)
	var got downloaded
	if jsonErr := json.Unmarshal(out, &got); jsonErr == nil && got.Error != "" {
		return nil, goError(r.what, got.Error)
	}
	if err != nil {
		return nil, err
	}
	if got.Version != m.Version || got.Zip == "" || got.GoMod == "" || got.Info == "" {
		return nil, protocol.Errorf(http.StatusBadGateway, "%s: go mod download gave version %.200q", r.what, got.Version)
	}
	files, err := r.small(m, got.Info, got.GoMod)
	if err != nil {
		return nil, err
	}
	zip, err := r.takeZip(m, got.Zip)
	if err != nil {
		return nil, err
	}
	return append(files, zip), nil
}

// small reads .info and .mod from the go command's cache.
func (r *run) small(m module.Version, info, gomod string) ([]*Fetched, error) {
	var files []*Fetched
	for _, file := range []struct {
		kind verify.Kind
		path string
		most int64
	}{{verify.Info, info, verify.MaxInfo}, {verify.Mod, gomod, verify.MaxMod}} {
		name := verify.Name{Module: m, Kind: file.kind}
		data, err := readLimited(file.path, file.most)
		if err == nil {
			err = checkSmall(name, data)
		}
		if err != nil {
			return nil, protocol.Errorf(http.StatusBadGateway, "%s: go command: %w", r.what, err)
		}
		files = append(files, &Fetched{Name: name, Data: data, Size: int64(len(data)), Source: "direct"})
	}
	return files, nil
}

func readLimited(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", filepath.Base(path), most)
	}
	return data, err
}

// takeZip moves the zip out of the directory, which is about to go.
func (r *run) takeZip(m module.Version, path string) (*Fetched, error) {
	name := verify.Name{Module: m, Kind: verify.Zip}
	fail := func(err error) (*Fetched, error) {
		return nil, protocol.Errorf(http.StatusInternalServerError, "%s: %w", name, err)
	}
	temp, err := os.CreateTemp(r.d.o.TempDir, "fetch-*.zip")
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(temp.Close(), os.Rename(path, temp.Name())); err != nil {
		return fail(errors.Join(err, removeTemp(temp.Name())))
	}
	f, err := os.Open(temp.Name())
	if err != nil {
		return fail(errors.Join(err, removeTemp(temp.Name())))
	}
	fetched := &Fetched{Name: name, File: f, Source: "direct"}
	stat, err := f.Stat()
	if err == nil && stat.Size() > verify.MaxZip {
		err = &tooLarge{verify.MaxZip}
	}
	if err != nil {
		return fail(errors.Join(err, fetched.Close()))
	}
	fetched.Size = stat.Size()
	return fetched, nil
}
