package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "read and hash everything that is held",
		Description: `Names each damaged file. It is never served; a running node heals it from other
offices or the upstream at once. Exit status 1 if damage is left.

Examples:

   meshproxy verify
   meshproxy verify --json`,
		Flags:  atFlags(jsonFlag()),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c); err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error {
				p := newProgress(c, "verify")
				r, err := ctl.Verify(c.Context, p.show)
				p.end()
				if err != nil {
					return err
				}
				return printVerified(c, r)
			})
		},
	}
}

func printVerified(c *cli.Context, r *node.Verified) error {
	left := 0
	for _, p := range r.Problems {
		if !p.Healed {
			left++
		}
	}
	if c.Bool("json") {
		if err := printJSON(c.App.Writer, r); err != nil {
			return err
		}
	} else {
		for _, p := range r.Problems {
			fmt.Fprintln(c.App.Writer, problemText(p))
		}
		fmt.Fprintf(c.App.Writer, "%d files, %s: %d damaged, %d healed\n", r.Files, bytesText(r.Bytes), len(r.Problems), len(r.Problems)-left)
	}
	if left > 0 {
		return fmt.Errorf("damage is left at %d places; it is not served, and a running node tries again to heal it", left)
	}
	return nil
}

func problemText(p node.Problem) string {
	if p.Healed {
		return "healed   " + p.File
	}
	text := "damaged  " + p.File + ": " + p.Reason
	if p.Note != "" {
		text += "; not healed: " + p.Note
	}
	return text
}
