package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

const (
	// upgrades is how many modules of a project go up by one version.
	upgrades = 30
	// maxListed bounds the modules whose versions are asked for to find so many.
	maxListed = 80
)

// upgraded makes a go.mod with the next version of the first modules of a project
// that have one, as the machine's source of modules lists them.
func (b *bench) upgraded(ctx context.Context) (gomod string, err error) {
	g, err := b.environment()
	if err != nil {
		return "", err
	}
	f, err := modfile.Parse("go.mod", []byte(b.gomod), nil)
	if err != nil {
		return "", err
	}
	args := []string{"list", "-m", "-e", "-versions", "-json=Path,Versions"}
	for _, r := range f.Require[:min(len(f.Require), maxListed)] {
		if !module.IsPseudoVersion(r.Mod.Version) {
			args = append(args, r.Mod.Path+"@"+r.Mod.Version)
		}
	}
	out, err := g.Run(ctx, args...)
	if err != nil {
		return "", err
	}
	var next []module.Version
	if err := each(out, func(m listed) error {
		if v := following(m.Versions, required(b.gomod, m.Path)); v != "" {
			next = append(next, module.Version{Path: m.Path, Version: v})
		}
		return nil
	}); err != nil {
		return "", err
	}
	if next, err = had(ctx, g, next); err != nil {
		return "", err
	}
	for _, m := range next[:min(len(next), upgrades)] {
		if err := f.AddRequire(m.Path, m.Version); err != nil {
			return "", err
		}
	}
	f.Cleanup()
	text, err := f.Format()
	return string(text), err
}

// had are those of modules whose zips are to be had: mirrors do not carry everything
// that they list.
func had(ctx context.Context, g *outside.Go, mods []module.Version) (got []module.Version, err error) {
	args := []string{"mod", "download", "-json"}
	for _, m := range mods {
		args = append(args, m.String())
	}
	out, err := g.Run(ctx, args...)
	var failed *outside.CommandError
	if err != nil && !errors.As(err, &failed) {
		return nil, err
	}
	err = each(out, func(m listed) error {
		if m.Error == "" {
			got = append(got, module.Version{Path: m.Path, Version: m.Version})
		}
		return nil
	})
	return got, err
}

// listed is what the go command says of a module in JSON.
type listed struct {
	Path, Version, Zip, Error string
	Versions                  []string
}

// each reads what the go command says of modules, one after the other.
func each(out string, f func(listed) error) error {
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var m listed
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("what the go command lists: %w", err)
		}
		if err := f(m); err != nil {
			return err
		}
	}
}

// following is the first release after version v, or "".
func following(versions []string, v string) string {
	for _, next := range versions { // in order
		if semver.Compare(next, v) > 0 && semver.Prerelease(next) == "" && semver.Build(next) == "" {
			return next
		}
	}
	return ""
}

// environment is a go command that gets modules where the machine does, in a module
// cache that is kept from run to run.
func (b *bench) environment() (*outside.Go, error) {
	g, err := outside.NewGo(b.treeDir()+"-wan", machineSettings()...)
	if err != nil {
		return nil, err
	}
	return g, g.Write("go.mod", b.gomod)
}

// zips are the sizes in bytes of the zips that a project downloads.
func (b *bench) zips(ctx context.Context, gomod string) (sizes map[string]int64, err error) {
	g, err := b.environment()
	if err == nil {
		err = g.Write("go.mod", gomod)
	}
	if err != nil {
		return nil, err
	}
	out, err := g.Run(ctx, "mod", "download", "-json")
	if err != nil {
		return nil, err
	}
	sizes = make(map[string]int64)
	return sizes, each(out, func(m listed) error {
		info, err := os.Stat(m.Zip)
		if err == nil {
			sizes[m.Zip] = info.Size()
		}
		return err
	})
}

// amount is a number of zips and their bytes.
type amount struct {
	count int
	size  int64
}

// fresh is what one project has of zips that another one has not.
func fresh(of, not map[string]int64) (a amount) {
	for zip, n := range of {
		if _, ok := not[zip]; !ok {
			a.count, a.size = a.count+1, a.size+n
		}
	}
	return a
}
