package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func whyCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "why",
		Usage:     "say how a module version came here",
		ArgsUsage: "MODULE@VERSION",
		Description: `Who fetched it when from where, who vouches for it, which line of the policy allows it,
and what the audit log says of it.

Example:

   meshproxy why golang.org/x/mod@v0.38.0`,
		Flags: []cli.Flag{jsonFlag()},
	}, func(c *cli.Context, ctl node.Control) error {
		m, err := parseModule(c.Args().First())
		if err != nil {
			return err
		}
		w, err := ctl.Why(c.Context, m)
		if err != nil {
			return fmt.Errorf("why: %w", err)
		}
		return show(c, w, printWhy)
	})
}

func printWhy(c *cli.Context, w *node.Why) error {
	out := c.App.Writer
	if _, err := fmt.Fprintln(out, w.Module); err != nil {
		return err
	}
	said := newTable(out)
	sayFiles(said, w)
	if err := printTable(out, said); err != nil || len(w.Audit) == 0 {
		return err
	}
	noted := newTable(out, "at", "", "file", "office", "from", "")
	for _, e := range w.Audit {
		noted.AppendRow([]any{e.At.Local().Format(time.DateTime), e.What, e.File, e.Office, e.Source, e.Detail})
	}
	return printTable(out, noted)
}

// sayFiles adds what is known of each file, and what the policy makes of them.
func sayFiles(t *grid, w *node.Why) {
	for _, f := range w.Files {
		note := ""
		if !f.Held {
			note = " (only its record is held)"
		}
		t.AppendRow([]any{f.File, fmt.Sprintf("%s%s\nfetched by office %s from %s, %s\nvouched for by %s\nsigned by %s",
			f.Digest, note, f.Office, f.Source, f.Fetched.Local().Format(time.DateTime), f.Vouched, f.Signer)})
	}
	if w.Policy != nil {
		verdict := "allowed"
		if !w.Policy.Allowed {
			verdict = "not allowed"
		}
		t.AppendRow([]any{"policy", verdict + ": " + w.Policy.Reason})
	}
}
