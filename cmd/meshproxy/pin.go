package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func pinCommand() *cli.Command {
	return &cli.Command{
		Name:      "pin",
		Usage:     "keep modules from being dropped, or list the pinned patterns",
		ArgsUsage: "[PATTERN]",
		Description: `PATTERN is written like GOPRIVATE; after an @ a pattern for the version may follow.

Examples:

   meshproxy pin                          # lists
   meshproxy pin 'example.com/acme/*'
   meshproxy pin 'golang.org/x/*@v0.*'`,
		Flags:  atFlags(jsonFlag()),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				if err := wantArgs(c, "PATTERN"); err != nil {
					return err
				}
				return withControl(c, func(ctl node.Control) error { return ctl.Pin(c.Context, c.Args().First()) })
			}
			return withControl(c, func(ctl node.Control) error {
				list, err := ctl.Pinned(c.Context)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, list)
				}
				for _, p := range list {
					fmt.Fprintln(c.App.Writer, p)
				}
				return nil
			})
		},
	}
}

func unpinCommand() *cli.Command {
	return &cli.Command{
		Name:      "unpin",
		Usage:     "take back what was pinned",
		ArgsUsage: "PATTERN",
		Description: `Example:

   meshproxy unpin 'example.com/acme/*'`,
		Flags:  atFlags(),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, "PATTERN"); err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error { return ctl.Unpin(c.Context, c.Args().First()) })
		},
	}
}
