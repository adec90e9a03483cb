package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// MaxFound is the most module versions on a page of Find.
const MaxFound = 200

// Found is a page of module versions in order of path and version.
type Found struct {
	Releases []Release `json:"releases"`
	Next     string    `json:"next,omitempty"` // the token of the next page; empty at the end
}

// maxSearched bounds the module versions that one page of Find looks at.
const maxSearched = 20_000

// Find lists the module versions that this office holds and that begin with text,
// PATH or PATH@VERSION, at most limit from token on. If no path begins with it, those
// are listed that have it somewhere, capitals or not. It reads the index from there,
// and of that a bounded part, so that a page costs the same however much is held; a
// page with nothing on it need not be the last one. A token that no call returned is
// an error.
func (n *Node) Find(_ context.Context, text, token string, limit int) (Found, error) {
	limit = min(max(limit, 1), MaxFound)
	path, version, exact := strings.Cut(text, "@")
	if exact {
		return n.findVersions(path, version, token, limit)
	}
	list, next, err := n.findPaths(path, token, limit)
	if err != nil {
		return Found{}, err
	}
	found := Found{Next: next}
	for _, m := range list {
		r, err := n.releaseOf(m)
		if err != nil {
			return Found{}, err
		}
		found.Releases = append(found.Releases, r)
	}
	return found, nil
}

// findPaths is Find for the beginning or a part of a path. Whose token does not begin
// with it is amid those that have it somewhere.
func (n *Node) findPaths(path, token string, limit int) (list []module.Version, next string, err error) {
	from := token
	if token == "" && path != "" {
		from = path + "@"
	}
	if strings.HasPrefix(from, path) {
		list, next, err = n.store.Catalog(from, limit)
		if i := slices.IndexFunc(list, func(m module.Version) bool { return !strings.HasPrefix(m.Path, path) }); i >= 0 {
			list, next = list[:i], ""
		}
	}
	if err != nil || len(list) > 0 || token != "" && strings.HasPrefix(token, path) {
		return list, next, err
	}
	part := strings.ToLower(path)
	return n.store.Search(token, limit, maxSearched, func(path string) bool { return strings.Contains(strings.ToLower(path), part) })
}

// findVersions is Find among the versions of one module.
func (n *Node) findVersions(path, prefix, token string, limit int) (found Found, err error) {
	_, after, _ := strings.Cut(token, "@")
	versions, more, err := n.store.VersionsFrom(path, prefix, after, limit)
	if err != nil {
		return found, err
	}
	for _, v := range versions {
		r, err := n.releaseOf(module.Version{Path: path, Version: v})
		if err != nil {
			return found, err
		}
		found.Releases = append(found.Releases, r)
	}
	if more {
		found.Next = path + "@" + versions[limit-1]
	}
	return found, nil
}

// releaseOf puts together what this office has of a module version.
func (n *Node) releaseOf(m module.Version) (Release, error) {
	var kinds []verify.Kind
	for _, k := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		_, err := n.store.Record(verify.Name{Module: m, Kind: k})
		if err == nil {
			kinds = append(kinds, k)
		} else if !errors.Is(err, store.ErrNotFound) {
			return Release{}, err
		}
	}
	return release(n.store, store.Release{Module: m, Kinds: kinds})
}

// MaxShownFiles is the most files of a zip that Look lists.
const MaxShownFiles = 500

// Detail is what an office knows of a module version.
type Detail struct {
	Release
	Names   []string `json:"names,omitempty"`  // files of the zip, MaxShownFiles at most
	Count   int      `json:"count"`            // of the files in the zip
	Holders []string `json:"holders"`          // other offices that say now that they hold the zip
	Unsure  string   `json:"unsure,omitempty"` // why Holders may lack some
}

// lookLimit bounds the question who else holds a zip.
const lookLimit = 3 * time.Second

// Look tells what this office knows of a module version that it holds, and asks the
// others whether they hold its zip. store.ErrNotFound if it has no file of it.
func (n *Node) Look(ctx context.Context, m module.Version) (*Detail, error) {
	r, err := n.releaseOf(m)
	if err != nil {
		return nil, err
	}
	if len(r.Files) == 0 {
		return nil, fmt.Errorf("%s: %w", m, store.ErrNotFound)
	}
	d := &Detail{Release: r, Holders: []string{}}
	name := verify.Name{Module: m, Kind: verify.Zip}
	signed, err := n.store.Record(name)
	if errors.Is(err, store.ErrNotFound) {
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	if err := d.list(n.store, signed.Record.Digest); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	copies, err := n.exchange().Copies(ctx, []verify.Name{name})
	if err != nil {
		d.Unsure = err.Error()
	}
	for _, who := range copies {
		for _, p := range who {
			d.Holders = append(d.Holders, n.officeOf(p))
		}
	}
	slices.Sort(d.Holders)
	return d, nil
}

// list fills in the files of a zip, if it is held.
func (d *Detail) list(s *store.Store, root verify.Digest) error {
	text, err := s.Listing(root)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	l, err := verify.ParseListing(text)
	if err != nil {
		return err
	}
	d.Count = len(l.Files)
	prefix := d.Release.String() + "/"
	for _, f := range l.Files[:min(len(l.Files), MaxShownFiles)] {
		d.Names = append(d.Names, strings.TrimPrefix(f.Name, prefix))
	}
	return nil
}
