package policy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/module"
)

// Config says what an office's own policy is made of. The zero value forbids
// nothing.
type Config struct {
	FilterFile string   // in the format of ParseFilter; "" is none
	File       string   // a document, see ParseDocument; "" is none
	OSV        []string // files and directories, see LoadOSV
	OSVIgnore  []string // IDs of advisories that do not count
	Share      Sharing  // empty is ShareAll
	Hooks      HookConfig
	Log        *slog.Logger // nil discards
	// Mesh returns what the admins of the mesh published, nil for nothing; a call
	// must be cheap.
	Mesh func() *Signed
	// Changed is told when a policy has come into force, or could not: what is in
	// which file, or by whom. It may be nil.
	Changed func(what string, err error)
}

// filePeriod is how often files are looked at.
const filePeriod = 2 * time.Second

// Engine is the policy in force at an office. Its methods may be called
// concurrently; Run keeps it up to date.
type Engine struct {
	cfg   Config
	hooks *hooks

	loading sync.Mutex // held while rules are replaced
	rules   atomic.Pointer[rules]
	tried   map[string]string // guarded by loading; what of each source was last tried
	mu      sync.Mutex
	broken  map[string]error // guarded by mu; sources whose newest content is not in force
}

// rules are what is in force. They are immutable.
type rules struct {
	filter  *Filter
	own     *Document
	deny    *Denylist
	mesh    *Signed
	meshDoc *Document
}

// Sources, as they are named to people.
const (
	fromFilter = "the filter file of this office"
	fromOwn    = "the policy of this office"
	fromMesh   = "the policy of the mesh"
	fromOSV    = "the list of known vulnerabilities"
)

// Open reads all files. One that cannot be read or is broken is an error now;
// later it is a Problem, and what was read before stays in force.
func Open(cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Mesh == nil {
		cfg.Mesh = func() *Signed { return nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func(string, error) {}
	}
	cfg.Share = cmp.Or(cfg.Share, ShareAll)
	if !slices.Contains([]Sharing{ShareNone, SharePublic, ShareAll}, cfg.Share) {
		return nil, fmt.Errorf("share %.40q: want none, public or all", cfg.Share)
	}
	h, err := newHooks(cfg.Hooks)
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, hooks: h, tried: map[string]string{}, broken: map[string]error{}}
	e.rules.Store(&rules{filter: new(Filter), own: new(Document), meshDoc: new(Document)})
	e.Reload()
	for _, source := range []string{fromFilter, fromOwn, fromOSV} {
		if err := e.broken[source]; err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Run looks for changes until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(filePeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.Reload()
		case <-ctx.Done():
			return nil
		}
	}
}

// Reload reads what has changed.
func (e *Engine) Reload() {
	e.loading.Lock()
	defer e.loading.Unlock()
	next := *e.rules.Load()
	changed := e.loadFile(fromFilter, e.cfg.FilterFile, MaxFilter, func(text []byte) (err error) {
		next.filter, err = keep(next.filter)(ParseFilter(text))
		return err
	})
	changed = e.loadFile(fromOwn, e.cfg.File, MaxDocument, func(text []byte) (err error) {
		next.own, err = keep(next.own)(ParseDocument(text))
		return err
	}) || changed
	changed = e.loadOSV(&next) || changed
	changed = e.loadMesh(&next) || changed
	if changed {
		e.rules.Store(&next)
	}
}

// keep chooses the old value where there is no new one.
func keep[T any](old T) func(T, error) (T, error) {
	return func(next T, err error) (T, error) {
		if err != nil {
			return old, err
		}
		return next, nil
	}
}

// loadFile reads one file, if its content is not what was tried last.
func (e *Engine) loadFile(source, path string, limit int64, use func([]byte) error) bool {
	if path == "" {
		return false
	}
	text, err := readLimited(path, limit)
	mark := "content " + string(text)
	if err != nil {
		mark = "error " + err.Error()
	}
	if e.tried[source] == mark {
		return false
	}
	e.tried[source] = mark
	if err == nil {
		if err = use(bytes.TrimPrefix(text, []byte("\uFEFF"))); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	e.outcome(source, path, err)
	return err == nil
}

// loadOSV reads the denylists if a name, a size or a time among them has changed.
func (e *Engine) loadOSV(next *rules) bool {
	if len(e.cfg.OSV) == 0 {
		return false
	}
	var mark bytes.Buffer
	for _, path := range e.cfg.OSV {
		err := walkOSV(path, func(file string, info fs.FileInfo) error {
			fmt.Fprintf(&mark, "%s %d %d\n", file, info.Size(), info.ModTime().UnixNano())
			return nil
		})
		if err != nil {
			fmt.Fprintln(&mark, err)
		}
	}
	if e.tried[fromOSV] == mark.String() {
		return false
	}
	e.tried[fromOSV] = mark.String()
	list, err := LoadOSV(e.cfg.OSV)
	if err == nil {
		next.deny = list
	}
	e.outcome(fromOSV, fmt.Sprintf("%d advisories", list.Len()), err)
	return err == nil
}

// loadMesh takes in what the admins published last.
func (e *Engine) loadMesh(next *rules) bool {
	s := e.cfg.Mesh()
	id := ""
	if s != nil {
		id = s.ID
	}
	if e.tried[fromMesh] == id {
		return false
	}
	e.tried[fromMesh] = id
	doc, what, err := new(Document), "none is published", error(nil)
	if s != nil {
		what = fmt.Sprintf("number %d by %s", s.Counter, s.By)
		doc, err = ParseMeshDocument(s.Text)
	}
	if err == nil {
		next.mesh, next.meshDoc = s, doc
	}
	e.outcome(fromMesh, what, err)
	return err == nil
}

// outcome remembers what came of a source, and says so.
func (e *Engine) outcome(source, what string, err error) {
	e.mu.Lock()
	delete(e.broken, source)
	if err != nil {
		e.broken[source] = fmt.Errorf("%s: %w", source, err)
	}
	e.mu.Unlock()
	if err != nil {
		e.cfg.Log.Error("a policy is broken; what was in force before stays so", "what", source, "err", err)
	} else {
		e.cfg.Log.Info("policy in force", "what", source, "which", what)
	}
	e.cfg.Changed(source+": "+what, err)
}

// Problems says which policies are broken, in words.
func (e *Engine) Problems() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for _, err := range e.broken {
		list = append(list, err.Error()+"; what was in force before stays so")
	}
	slices.Sort(list)
	return list
}

// Warnings says what in the filters is without effect.
func (e *Engine) Warnings() []string {
	r := e.current()
	var list []string
	for _, s := range r.filters() {
		for _, w := range s.filter.Warnings() {
			list = append(list, s.source+": "+w)
		}
	}
	return list
}

// current returns the rules in force, those that the mesh has just got included.
func (e *Engine) current() *rules {
	r := e.rules.Load()
	s := e.cfg.Mesh()
	if s != r.mesh && (s == nil || r.mesh == nil || s.ID != r.mesh.ID) {
		e.Reload()
		r = e.rules.Load()
	}
	return r
}

type sourced struct {
	source string
	filter *Filter
}

// filters are those in force, in the order in which they are asked.
func (r *rules) filters() []sourced {
	list := []sourced{{fromFilter, r.filter}}
	if r.own.filter != nil {
		list = append(list, sourced{fromOwn, r.own.filter})
	}
	if r.meshDoc.filter != nil {
		list = append(list, sourced{fromMesh, r.meshDoc.filter})
	}
	return list
}

// Verdict is what one part of the policy says about a module version.
type Verdict struct {
	Rule   Rule   `json:"rule"`
	Source string `json:"source"`
	Line   int    `json:"line,omitempty"` // of a filter; 0 if none decides
	Text   string `json:"text"`           // the line, or what else decides
}

// Reason is the verdict in words.
func (v Verdict) Reason() string {
	if v.Line == 0 && v.Rule == Include {
		return "included: no rule is about it"
	}
	if v.Line > 0 {
		return fmt.Sprintf("%s by line %d of %s: %s", v.Rule, v.Line, v.Source, v.Text)
	}
	return fmt.Sprintf("%s by %s: %s", v.Rule, v.Source, v.Text)
}

// Decide returns the verdict that counts for a module version: the strictest.
func (e *Engine) Decide(m module.Version) Verdict { return strictest(e.Explain(m)) }

// Explain returns the verdict of each part of the policy.
func (e *Engine) Explain(m module.Version) []Verdict {
	r := e.current()
	var list []Verdict
	for _, s := range r.filters() {
		list = append(list, verdictOf(s.source, s.filter.Decide(m.Path, m.Version)))
	}
	for _, a := range r.deny.Lookup(m.Path, m.Version, e.cfg.OSVIgnore) {
		list = append(list, Verdict{Exclude, fromOSV, 0, a.ID + " " + a.Summary})
	}
	return list
}

// Module returns the verdict for a module of which no version is named: excluded
// only if every version is.
func (e *Engine) Module(path string) Verdict {
	var list []Verdict
	for _, s := range e.current().filters() {
		list = append(list, verdictOf(s.source, s.filter.Module(path)))
	}
	return strictest(list)
}

func verdictOf(source string, d Decision) Verdict {
	v := Verdict{d.Rule, source, d.Line, d.Text}
	if d.Line == 0 {
		v.Text = "no line is about it"
	}
	return v
}

// strictest returns the first verdict of the strictest kind; one that a line makes
// is preferred.
func strictest(list []Verdict) Verdict {
	rank := func(v Verdict) (n int) {
		switch v.Rule {
		case Direct:
			n = 2
		case Exclude:
			n = 4
		}
		if v.Line > 0 {
			n++
		}
		return n
	}
	return slices.MaxFunc(list, func(a, b Verdict) int { return cmp.Compare(rank(a), rank(b)) })
}

// ErrHold says that an office may not hold a module.
var ErrHold = errors.New("not for this office")

// HoldsAll reports whether no rule is about who may hold what, so that nobody need be
// asked for.
func (e *Engine) HoldsAll() bool {
	r := e.current()
	return len(r.meshDoc.Hold) == 0 && len(r.own.Hold) == 0
}

// MayHold reports whether an office may hold a module, and if not, who says so.
func (e *Engine) MayHold(o Office, path string) (ok bool, source string) {
	r := e.current()
	switch {
	case !r.meshDoc.MayHold(o, path):
		return false, fromMesh
	case !r.own.MayHold(o, path):
		return false, fromOwn
	}
	return true, ""
}

// Shares reports whether a module may go to another office. public says whether a
// checksum database covers the module.
func (e *Engine) Shares(o Office, path string, public func(path string) bool) bool {
	r := e.current()
	for _, s := range []Sharing{e.cfg.Share, r.own.Share, r.meshDoc.Share} {
		if s == ShareNone || s == SharePublic && !public(path) {
			return false
		}
	}
	ok, _ := e.MayHold(o, path)
	return ok
}

// MayPublish reports whether an office may publish a module: the mesh's document
// must say so, and where the office has rules of its own, they too.
func (e *Engine) MayPublish(o Office, path string) bool {
	r := e.current()
	return r.meshDoc.MayPublish(o, path) && (len(r.own.Publish) == 0 || r.own.MayPublish(o, path))
}

// Publishable reports whether any office may publish a module.
func (e *Engine) Publishable(path string) bool {
	return slices.ContainsFunc(e.current().meshDoc.Publish, func(g Grant) bool { return names(g.Modules, path) })
}

// Download returns how a module is obtained that is not here.
func (e *Engine) Download(path string) Download { return e.current().own.Download(path) }

// Mesh returns what the admins published, as far as it is in force; nil for
// nothing.
func (e *Engine) Mesh() *Signed { return e.current().mesh }
