package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func pinCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "pin",
		Usage:     "keep modules from being dropped, or list the pinned patterns",
		ArgsUsage: "[PATTERN]",
		Description: `PATTERN is written like GOPRIVATE; after an @ a pattern for the version may follow.

Examples:

   meshproxy pin                          # lists
   meshproxy pin 'example.com/acme/*'
   meshproxy pin 'golang.org/x/*@v0.*'`,
		Flags: []cli.Flag{jsonFlag()},
	}, func(c *cli.Context, ctl node.Control) error {
		if c.NArg() > 0 {
			return ctl.Pin(c.Context, c.Args().First())
		}
		list, err := ctl.Pinned(c.Context)
		if err != nil {
			return err
		}
		if len(list) == 0 && !c.Bool("json") { // aside: the output is for scripts, one pattern to a line
			fmt.Fprintln(c.App.ErrWriter, "Nothing is pinned.")
		}
		return show(c, list, showLines)
	})
}

func unpinCommand() *cli.Command {
	return doCommand(&cli.Command{
		Name:      "unpin",
		Usage:     "take back what was pinned",
		ArgsUsage: "PATTERN",
		Description: `Example:

   meshproxy unpin 'example.com/acme/*'`,
	}, func(c *cli.Context, ctl node.Control) error { return ctl.Unpin(c.Context, c.Args().First()) })
}
