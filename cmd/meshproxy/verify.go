package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
)

func verifyCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:  "verify",
		Usage: "read and hash everything that is held",
		Description: `Names each damaged file. It is never served; a running node heals it from other
offices or the upstream at once. Exit status 1 if damage is left.

Examples:

   meshproxy verify
   meshproxy verify --json`,
		Flags: []cli.Flag{jsonFlag()},
	}, func(c *cli.Context, ctl node.Control) error {
		r, err := withProgress(c, "verify", func(p func(store.Progress)) (*node.Verified, error) { return ctl.Verify(c.Context, p) })
		if err != nil {
			return err
		}
		return printVerified(c, r)
	})
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
