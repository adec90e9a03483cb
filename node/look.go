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

// Find lists the module versions that this office holds and that begin with text,
// PATH or PATH@VERSION, at most limit from token on. It reads the index from there,
// so that a page costs the same however much is held. A token that no call
// returned is an error.
func (n *Node) Find(_ context.Context, text, token string, limit int) (Found, error) {
	limit = min(max(limit, 1), MaxFound)
	path, version, exact := strings.Cut(text, "@")
	if exact {
		return n.findVersions(path, version, token, limit)
	}
	if token == "" && path != "" {
		token = path + "@"
	}
	list, next, err := n.store.Catalog(token, limit)
	if err != nil {
		return Found{}, err
	}
	if i := slices.IndexFunc(list, func(m module.Version) bool { return !strings.HasPrefix(m.Path, path) }); i >= 0 {
		list, next = list[:i], ""
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

// findVersions is Find among the versions of one module.
func (n *Node) findVersions(path, prefix, token string, limit int) (found Found, err error) {
	versions, err := n.store.Versions(path)
	if err != nil {
		return found, err
	}
	for _, v := range versions {
		m := module.Version{Path: path, Version: v}
		if !strings.HasPrefix(v, prefix) || token != "" && m.String() <= token {
			continue
		}
		if len(found.Releases) == limit {
			found.Next = found.Releases[limit-1].String()
			break
		}
		r, err := n.releaseOf(m)
		if err != nil {
			return found, err
		}
		found.Releases = append(found.Releases, r)
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
