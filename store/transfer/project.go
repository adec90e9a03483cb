package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// Project lists the files that building what is in dir may need, sorted: for each
// line of go.sum and go.work.sum that is about a zip, the zip, its .info and its
// go.mod; for each about a go.mod, that. Without go.sum it is what go.mod itself
// requires. Replaced modules and the standard library are not fetched, so a go.mod
// alone may name too much.
func Project(dir string) ([]verify.Name, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	want := make(map[verify.Name]bool)
	found := false
	for _, name := range []string{"go.sum", "go.work.sum"} {
		data, err := readLimited(root, name, verify.MaxGoSum)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = true
		pins, err := verify.ParseGoSum(filepath.Join(dir, name), data)
		if err != nil {
			return nil, err
		}
		for _, p := range pins {
			add(want, p.Name)
		}
	}
	if !found {
		if err := addRequired(want, root); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	names := make([]verify.Name, 0, len(want))
	for n := range want {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool { return names[i].String() < names[j].String() })
	return names, nil
}

func add(want map[verify.Name]bool, n verify.Name) {
	want[n] = true
	if n.Kind == verify.Zip {
		want[verify.Name{Module: n.Module, Kind: verify.Info}] = true
		want[verify.Name{Module: n.Module, Kind: verify.Mod}] = true
	}
}

func addRequired(want map[verify.Name]bool, root *os.Root) error {
	data, err := readLimited(root, "go.mod", verify.MaxMod)
	if err != nil {
		return err
	}
	f, err := modfile.ParseLax("go.mod", data, nil)
	if err != nil {
		return err
	}
	for _, r := range f.Require {
		n := verify.Name{Module: module.Version{Path: r.Mod.Path, Version: r.Mod.Version}, Kind: verify.Zip}
		if err := n.Check(); err != nil {
			return err
		}
		add(want, n)
	}
	return nil
}

func readLimited(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: over %d bytes", name, limit)
	}
	return data, err
}
