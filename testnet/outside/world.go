package outside

import (
	"bytes"
	"fmt"
	"net/http"
	"path"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// Epoch is when the first release of a world was made; later ones follow by the
// hour, so that nothing depends on the clock.
var Epoch = time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)

// World is a set of modules and an http.Handler that serves them by the module
// download protocol. The zero value is an empty world. It is safe for use by
// several goroutines.
type World struct {
	// NoLatest makes every @latest a 404, as on many mirrors.
	NoLatest bool

	mu      sync.RWMutex
	modules map[string]*entry // by path
	made    int               // releases so far, for their times
}

type entry struct {
	releases map[string]*Release // by version
	queries  map[string]string   // branch, tag or hash to version
}

// Add makes a release known. A release that is there already is replaced, which
// no honest proxy does: that is how a tampered module is made.
func (w *World) Add(r *Release) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entry(r.Path).releases[r.Version.Version] = r
}

// entry returns the module at path, making it. w.mu is held for writing.
func (w *World) entry(path string) *entry {
	if w.modules == nil {
		w.modules = map[string]*entry{}
	}
	e := w.modules[path]
	if e == nil {
		e = &entry{releases: map[string]*Release{}, queries: map[string]string{}}
		w.modules[path] = e
	}
	return e
}

// Point makes a branch, tag or hash of a module resolve to version.
func (w *World) Point(path, query, version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entry(path).queries[query] = version
}

// Remove forgets a release, as a proxy does that was asked to take it down.
func (w *World) Remove(m module.Version) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.modules[m.Path]; e != nil {
		delete(e.releases, m.Version)
	}
}

// Pack makes every zip now. Otherwise each is made when it is first asked for, and
// the client that does so waits for it: on a busy machine, longer than clients do.
func (w *World) Pack() error {
	for _, r := range w.Releases() {
		if _, err := r.H1(); err != nil {
			return err
		}
	}
	return nil
}

// Release returns one release, or nil.
func (w *World) Release(m module.Version) *Release {
	w.mu.RLock()
	defer w.mu.RUnlock()
	e := w.modules[m.Path]
	if e == nil {
		return nil
	}
	return e.releases[m.Version]
}

// Releases returns every release, sorted by path and version.
func (w *World) Releases() []*Release {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var all []*Release
	for _, e := range w.modules {
		for _, r := range e.releases {
			all = append(all, r)
		}
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].Path != all[j].Path {
			return all[i].Path < all[j].Path
		}
		return semver.Compare(all[i].Version.Version, all[j].Version.Version) < 0
	})
	return all
}

// AddFiles makes a release of files and adds it.
func (w *World) AddFiles(m module.Version, files map[string][]byte) (*Release, error) {
	w.mu.Lock()
	at := Epoch.Add(time.Duration(w.made) * time.Hour)
	w.made++
	w.mu.Unlock()
	if module.IsPseudoVersion(m.Version) {
		var err error
		if at, err = module.PseudoVersionTime(m.Version); err != nil {
			return nil, err
		}
	}
	r, err := NewRelease(m, at, files)
	if err != nil {
		return nil, err
	}
	w.Add(r)
	return r, nil
}

// AddArchive adds the releases of a txtar archive. Its files are called
// path@version/file; a file of that name with the suffix "?" instead of a path
// below it points a query at the version: "example.test/m@v1.0.0?main".
func (w *World) AddArchive(text string) error {
	type pending struct {
		m     module.Version
		files map[string][]byte
	}
	var order []*pending
	byVersion := map[module.Version]*pending{}
	for _, f := range txtar.Parse([]byte(text)).Files {
		modpath, rest, ok := strings.Cut(f.Name, "@")
		if !ok {
			return fmt.Errorf("archive file %q: want path@version/file", f.Name)
		}
		if version, query, ok := strings.Cut(rest, "?"); ok {
			w.Point(modpath, query, version)
			continue
		}
		version, file, ok := strings.Cut(rest, "/")
		if !ok {
			return fmt.Errorf("archive file %q: want path@version/file", f.Name)
		}
		m := module.Version{Path: modpath, Version: version}
		p := byVersion[m]
		if p == nil {
			p = &pending{m, map[string][]byte{}}
			byVersion[m] = p
			order = append(order, p)
		}
		p.files[file] = f.Data
	}
	for _, p := range order {
		if _, err := w.AddFiles(p.m, p.files); err != nil {
			return err
		}
	}
	return nil
}

// ServeHTTP answers by the module download protocol: 404 for what is not in the
// world, with the text that the public mirror's users know.
func (w *World) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	r := Classify(req)
	if r.Module == "" {
		http.Error(rw, "not found: no such page", http.StatusNotFound)
		return
	}
	body, err := w.answer(r)
	if err != nil {
		http.Error(rw, "not found: "+err.Error(), http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", contentTypes[path.Ext(req.URL.Path)])
	http.ServeContent(rw, req, "", Epoch, bytes.NewReader(body))
}

// contentTypes are those of the module download protocol.
var contentTypes = map[string]string{
	".info": "application/json", ".mod": "text/plain; charset=utf-8", ".zip": "application/zip",
	"": "text/plain; charset=utf-8",
}

func (w *World) answer(r Request) ([]byte, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	e := w.modules[r.Module]
	if e == nil {
		return nil, fmt.Errorf("module %s: no such module", r.Module)
	}
	switch r.Kind {
	case List:
		return []byte(strings.Join(append(e.tagged(), ""), "\n")), nil
	case Latest:
		return w.latest(e, r.Module)
	case Query:
		if v, ok := e.queries[r.Version]; ok && e.releases[v] != nil {
			return e.releases[v].Info, nil
		}
		return nil, fmt.Errorf("%s@%s: invalid version: unknown revision %s", r.Module, r.Version, r.Version)
	}
	rel := e.releases[r.Version]
	if rel == nil {
		return nil, fmt.Errorf("%s@%s: invalid version: unknown revision %s", r.Module, r.Version, r.Version)
	}
	switch r.Kind {
	case Info:
		return rel.Info, nil
	case Mod:
		return rel.Mod, nil
	default:
		return rel.zip()
	}
}

// tagged lists the versions that are no pseudo-versions, oldest first.
func (e *entry) tagged() []string {
	var list []string
	for v := range e.releases {
		if !module.IsPseudoVersion(v) {
			list = append(list, v)
		}
	}
	semver.Sort(list)
	return list
}

// latest is the newest release version, else the newest pre-release, else the
// newest pseudo-version.
func (w *World) latest(e *entry, path string) ([]byte, error) {
	best := ""
	rank := func(v string) int {
		switch {
		case module.IsPseudoVersion(v):
			return 0
		case semver.Prerelease(v) != "":
			return 1
		}
		return 2
	}
	for v := range e.releases {
		if best == "" || rank(v) > rank(best) || rank(v) == rank(best) && semver.Compare(v, best) > 0 {
			best = v
		}
	}
	if best == "" || w.NoLatest {
		return nil, fmt.Errorf("module %s: no latest version known", path)
	}
	return e.releases[best].Info, nil
}

// GoMod writes the go.mod of a project at path that requires the newest version
// of every module in the world.
func (w *World) GoMod(path string) string {
	newest := map[string]string{}
	var order []string
	for _, r := range w.Releases() { // oldest first
		if _, ok := newest[r.Path]; !ok {
			order = append(order, r.Path)
		}
		newest[r.Path] = r.Version.Version
	}
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n\ngo 1.21\n\nrequire (\n", path)
	for _, p := range order {
		fmt.Fprintf(&b, "\t%s %s\n", p, newest[p])
	}
	b.WriteString(")\n")
	return b.String()
}
