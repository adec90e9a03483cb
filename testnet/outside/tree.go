package outside

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/module"
)

// Tree is a directory laid out as the module download protocol has its paths: the
// cache/download directory of a module cache. It serves real modules on loopback,
// with nothing of the network's noise.
type Tree string

// FillTree downloads what the go.mod of the project needs into a module cache
// below dir, from where the machine gets its modules, unless that was done before,
// and returns the tree.
func FillTree(ctx context.Context, dir, gomod string, settings ...string) (Tree, error) {
	g, err := NewGo(dir)
	if err != nil {
		return "", err
	}
	g.Set(settings...)
	if err := g.Write("go.mod", gomod); err != nil {
		return "", err
	}
	if _, err := g.Run(ctx, "mod", "download"); err != nil {
		return "", err
	}
	return Tree(filepath.Join(g.ModCache(), "cache", "download")), nil
}

// ServeHTTP serves the files with net/http's file server.
func (t Tree) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	http.FileServer(http.Dir(string(t))).ServeHTTP(w, req)
}

// Database makes a checksum database over the tree.
func (t Tree) Database(name string) (*Database, error) {
	return NewDatabase(name, func(m module.Version) (zip, mod string, err error) {
		base, err := t.base(m)
		if err != nil {
			return "", "", err
		}
		gomod, err := os.ReadFile(base + ".mod")
		if err != nil {
			return "", "", err
		}
		if mod, err = HashMod(gomod); err != nil {
			return "", "", err
		}
		// The go command leaves the hash beside each zip. Of most versions a build
		// needs the go.mod only, and their zips are not here; the real database
		// states both, so the other hash stands in.
		hash, err := os.ReadFile(base + ".ziphash")
		if os.IsNotExist(err) {
			return mod, mod, nil
		}
		return strings.TrimSpace(string(hash)), mod, err
	})
}

// base is the path of a version's files without their suffixes.
func (t Tree) base(m module.Version) (string, error) {
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return "", err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", err
	}
	return filepath.Join(string(t), filepath.FromSlash(path), "@v", version), nil
}

// Paths lists the URL paths of the tree's files with a suffix (".zip"), and their
// total size in bytes.
func (t Tree) Paths(suffix string) (paths []string, size int64, err error) {
	err = filepath.WalkDir(string(t), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, suffix) || !strings.Contains(path, "@v") || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(string(t), path)
		if err != nil {
			return err
		}
		paths = append(paths, "/"+filepath.ToSlash(rel))
		size += info.Size()
		return nil
	})
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("tree %s: no files with suffix %s", t, suffix)
	}
	return paths, size, err
}
