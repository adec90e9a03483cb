package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

func prefetchCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "prefetch",
		Usage:     "fetch what projects need, before a trip or a cut",
		ArgsUsage: "GO.MOD|GO.SUM|DIR|MODULE@VERSION...",
		Description: `Fetches from other offices, and else from the upstream, as if each project were built.
Of a project go.sum says what it needs, and go.mod if there is none. What is held
already costs nothing; what cannot be had is listed, and then the exit status is 1.

The running node does it. When none runs, the office is brought up for as long as it
takes.

Examples:

   meshproxy prefetch go.mod
   meshproxy prefetch project/*/go.sum
   meshproxy prefetch golang.org/x/mod@v0.38.0 golang.org/x/sync@v0.18.0`,
		Flags: append(officeFlags(), jsonFlag()),
	}, func(c *cli.Context) error {
		var names []verify.Name
		for _, arg := range c.Args().Slice() {
			more, err := neededBy(arg)
			if err != nil {
				return fmt.Errorf("prefetch: %w", err)
			}
			names = append(names, more...)
		}
		return fetchAll(c, names)
	})
}

// neededBy lists the files that a project needs, or those of a module version.
func neededBy(arg string) ([]verify.Name, error) {
	_, err := os.Stat(arg)
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return projectNeeds(arg)
	case !strings.Contains(arg, "@"):
		return nil, fmt.Errorf("%q: there is no such file or directory, and a module is named MODULE@VERSION", arg)
	}
	m, err := parseModule(arg)
	if err != nil {
		return nil, err
	}
	var names []verify.Name
	for _, k := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		names = append(names, verify.Name{Module: m, Kind: k})
	}
	return names, nil
}

// fetchAll has the office fetch files, and says what came of it.
func fetchAll(c *cli.Context, names []verify.Name) error {
	return withOffice(c, func(ctx context.Context, ctl node.Control) error {
		r, err := withProgress(c, "fetch", func(p func(store.Progress)) (*node.Transferred, error) {
			return ctl.Prefetch(ctx, names, p)
		})
		return printTransferred(c, "fetched", " unpacked", r, err)
	})
}
