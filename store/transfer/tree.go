package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// Format is the shape of a tree.
type Format string

// The trees that Import reads.
const (
	ModCache Format = "modcache" // GOMODCACHE, or its cache/download
	Proxy    Format = "goproxy"  // a GOPROXY as files
	Athens   Format = "athens"   // Athens' disk storage
)

// maxDepth bounds how deep a tree is read; module paths have few elements.
const maxDepth = 64

// file is a file of a tree that may be one of a release.
type file struct {
	path string // relative to the root of the tree, with slashes
	name verify.Name
	size int64
	err  error // why it is refused without a look inside
}

// Detect says which kind of tree dir is, and where it begins.
func Detect(dir string) (root string, f Format, err error) {
	if info, err := os.Stat(filepath.Join(dir, "cache", "download")); err == nil && info.IsDir() {
		return filepath.Join(dir, "cache", "download"), ModCache, nil
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "@v":
			f = Proxy
			return filepath.SkipAll
		case !d.IsDir() && d.Name() == "source.zip":
			f = Athens
			return filepath.SkipAll
		}
		return nil
	})
	if err == nil && f == "" {
		err = fmt.Errorf("%s: no module in the shape of a module cache, a GOPROXY or Athens' storage; name its root", dir)
	}
	return dir, f, err
}

// walk calls fn with each file that may belong to a release, sorted by path.
func walk(ctx context.Context, root string, f Format, fn func(file) error) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, rerr := filepath.Rel(root, name)
		if rerr != nil {
			return rerr
		}
		rel = filepath.ToSlash(rel)
		if err != nil {
			if name == root {
				return err
			}
			return fn(file{path: rel, err: err}) // an unreadable directory is not the end
		}
		if d.IsDir() {
			if f != Athens && (rel == "sumdb" || rel == "cache/vcs") || strings.Count(rel, "/") > maxDepth {
				return filepath.SkipDir
			}
			return nil
		}
		n, ok, err := identify(f, rel)
		if !ok {
			return nil
		}
		return fn(look(file{path: rel, name: n, err: err}, d))
	})
}

// look takes what a directory says of a file.
func look(f file, d fs.DirEntry) file {
	if f.err != nil {
		return f
	}
	info, err := d.Info()
	switch {
	case err != nil:
		f.err = err
	case !info.Mode().IsRegular():
		f.err = fmt.Errorf("not a regular file: %v", info.Mode().Type())
	case info.Size() > limit(f.name.Kind):
		f.err = fmt.Errorf("%d bytes: at most %d allowed", info.Size(), limit(f.name.Kind))
	default:
		f.size = info.Size()
	}
	return f
}

func limit(k verify.Kind) int64 {
	switch k {
	case verify.Info:
		return verify.MaxInfo
	case verify.Mod:
		return verify.MaxMod
	}
	return verify.MaxZip
}

// identify tells which file of which release a path is. Files that are no part of
// a release (lists, locks, hashes, answers to queries for branches) are not ok;
// those that should be one and have a bad name are an error.
func identify(f Format, rel string) (n verify.Name, ok bool, err error) {
	if f == Athens {
		n, ok = athensName(rel)
	} else {
		n, ok, err = proxyName(rel)
	}
	if !ok || err != nil {
		return n, ok, err
	}
	if n.Kind == verify.Info && module.CanonicalVersion(n.Module.Version) != n.Module.Version {
		return n, false, nil // what a branch or a tag once meant
	}
	return n, true, n.Check()
}

// proxyName reads path/@v/version.kind, with capitals escaped.
func proxyName(rel string) (n verify.Name, ok bool, err error) {
	dir, base := path.Split(rel)
	escaped, ok := strings.CutSuffix(strings.TrimSuffix(dir, "/"), "/@v")
	ext := path.Ext(base)
	kind := verify.Kind(strings.TrimPrefix(ext, "."))
	if !ok || kind != verify.Info && kind != verify.Mod && kind != verify.Zip {
		return n, false, nil
	}
	p, err := module.UnescapePath(escaped)
	if err != nil {
		return n, true, err
	}
	v, err := module.UnescapeVersion(strings.TrimSuffix(base, ext))
	return verify.Name{Module: module.Version{Path: p, Version: v}, Kind: kind}, true, err
}

// athensName reads path/version/(go.mod | source.zip | version.info), not escaped.
func athensName(rel string) (n verify.Name, ok bool) {
	dir, base := path.Split(rel)
	p, v := path.Split(strings.TrimSuffix(dir, "/"))
	n.Module = module.Version{Path: strings.TrimSuffix(p, "/"), Version: v}
	switch base {
	case "go.mod":
		n.Kind = verify.Mod
	case "source.zip":
		n.Kind = verify.Zip
	case v + ".info":
		n.Kind = verify.Info
	default:
		return n, false
	}
	return n, n.Module.Path != "" && v != ""
}

// open opens a file of the tree, which may have changed since it was seen: only
// what it is now counts. Links are not followed, not even those of directories.
func open(root string, f file) (*os.File, int64, error) {
	in, err := os.OpenInRoot(root, filepath.FromSlash(f.path))
	if err != nil {
		return nil, 0, err
	}
	info, err := in.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errors.New("not a regular file")
	case info.Size() > limit(f.name.Kind):
		err = fmt.Errorf("%d bytes: at most %d allowed", info.Size(), limit(f.name.Kind))
	}
	if err != nil {
		in.Close()
		return nil, 0, err
	}
	return in, info.Size(), nil
}
