package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
)

func gcCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:  "gc",
		Usage: "drop zips that were not used for long, and give the space back",
		Description: `Never drops what is pinned, nor what may be the last copy in the mesh: the other
offices are asked, which only a running node can do. Without limits it keeps those
of the running node. May be interrupted at any time.

Examples:

   meshproxy gc --max-size 20GB
   meshproxy gc --max-age 90d --dry-run`,
		Flags: []cli.Flag{
			jsonFlag(),
			sizeFlag("max-size", "drop until files take less than this `SIZE`", ""),
			ageFlag("max-age", "drop what was not read for this `TIME`, like 90d", ""),
			&cli.BoolFlag{Name: "dry-run", Usage: "only say what would be dropped"},
		},
		Before: func(c *cli.Context) error {
			_, err := gcLimits(c)
			return err
		},
	}, func(c *cli.Context, ctl node.Control) error {
		limits, err := gcLimits(c)
		if err != nil {
			return err
		}
		r, err := withProgress(c, "gc", func(p func(store.Progress)) (*node.Collected, error) { return ctl.GC(c.Context, limits, p) })
		if err != nil {
			return err
		}
		return show(c, r, printCollected)
	})
}

func gcLimits(c *cli.Context) (l node.Limits, err error) {
	if l.MaxSize, err = size(c, "max-size"); err != nil {
		return l, err
	}
	l.MaxAge, err = age(c, "max-age")
	l.DryRun = c.Bool("dry-run")
	return l, err
}

func printCollected(c *cli.Context, r *node.Collected) error {
	verb, dry := "dropped", c.Bool("dry-run")
	if dry {
		verb = "would drop"
	}
	t := newTable(c.App.Writer)
	for _, z := range r.Dropped {
		t.AppendRow([]any{verb, z.String(), bytesText(z.Size), "last read " + agoText(z.Read)})
	}
	for _, z := range r.Kept {
		t.AppendRow([]any{"kept", z.String(), bytesText(z.Size), "it may be the last copy in the mesh"})
	}
	if err := printTable(c.App.Writer, t); err != nil {
		return err
	}
	freed := "freed"
	if dry {
		freed = "would free about"
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s %d zips, %s %s; kept %d that may be the last copies and %d that are pinned; %s on disk\n",
		verb, len(r.Dropped), freed, bytesText(r.Freed), len(r.Kept), r.Pinned, bytesText(r.Disk))
	return err
}
