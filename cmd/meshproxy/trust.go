package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
)

func conflictsCommand() *cli.Command {
	return showCommand(&cli.Command{
		Name:  "conflicts",
		Usage: "show contents that were refused because another one was there first",
		Description: `A second content for the same module version is never served: a tag was moved, or
somebody lies. Both statements are kept as evidence.

Examples:

   meshproxy conflicts
   meshproxy conflicts --json`,
	}, func(c *cli.Context, ctl node.Control) ([]node.Conflict, error) { return ctl.Conflicts(c.Context) }, orSay(printConflicts, "No conflicts."))
}

func printConflicts(c *cli.Context, list []node.Conflict) error {
	t := newTable(c.App.Writer, "file", "", "digest", "office", "from", "fetched")
	for _, x := range list {
		for _, side := range []struct {
			name string
			node.Statement
		}{{"kept", x.Kept}, {"refused", x.Other}} {
			fetched := "" // what a pin or a database says was not fetched
			if !side.Fetched.IsZero() {
				fetched = side.Fetched.Local().Format(time.DateTime)
			}
			t.AppendRow([]any{x.Name, side.name, side.Digest, side.Office, side.Source, fetched})
		}
	}
	return printTable(c.App.Writer, t)
}

func trustCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "trust",
		Usage:     "trust the hashes of go.sum files above everything else",
		ArgsUsage: "[GO.SUM...]",
		Description: `A module that is pinned so is refused if it has any other content, whoever says so.

Examples:

   meshproxy trust go.sum
   meshproxy trust project/*/go.sum
   meshproxy trust --forget golang.org/x/mod@v0.38.0`,
		Flags: []cli.Flag{jsonFlag(), &cli.StringFlag{
			Name: "forget", Usage: "drop the pins of `MODULE@VERSION` instead",
		}},
		Before: checkTrust,
	}, trust)
}

// trusting is what a change of the pins was.
type trusting struct {
	Of   string `json:"of"` // a file, or MODULE@VERSION
	Pins int    `json:"pins"`
}

func checkTrust(c *cli.Context) error {
	m, file := c.String("forget"), c.Args().First()
	switch {
	case m != "" && file != "":
		return misuse("unexpected argument %q beside --forget", file)
	case m != "":
		_, err := parseModule(m)
		return err
	case file == "":
		return misuse("GO.SUM is missing; see: %s --help", commandName(c))
	}
	return nil
}

func trust(c *cli.Context, ctl node.Control) error {
	if m := c.String("forget"); m != "" {
		return distrust(c, ctl, m)
	}
	for _, path := range c.Args().Slice() {
		if err := trustFile(c, ctl, path); err != nil {
			return err
		}
	}
	return nil
}

// maxGoSum bounds a go.sum file, in bytes; the largest known have a few MiB.
const maxGoSum = 32 << 20

func trustFile(c *cli.Context, ctl node.Control, path string) error {
	text, err := readFile(path, maxGoSum)
	if err != nil {
		return err
	}
	n, err := ctl.Trust(c.Context, node.GoSum{Origin: path, Text: text})
	if err != nil {
		return fmt.Errorf("trust %s: %w", path, err)
	}
	return reportTo(c, false, trusting{path, n}, fmt.Sprintf("%s: %d new pins", path, n))
}

// readFile reads a file, or standard input for "-", up to a limit in bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: larger than %s", path, bytesText(limit))
	}
	return data, err
}

func distrust(c *cli.Context, ctl node.Control, text string) error {
	m, err := parseModule(text)
	if err != nil {
		return err
	}
	n, err := ctl.Distrust(c.Context, m)
	if err != nil {
		return fmt.Errorf("trust --forget: %w", err)
	}
	return reportTo(c, false, trusting{m.String(), n}, fmt.Sprintf("%s: %d pins dropped", m, n))
}

// parseModule reads MODULE@VERSION.
func parseModule(text string) (module.Version, error) {
	path, version, ok := strings.Cut(text, "@")
	m := module.Version{Path: path, Version: version}
	if !ok {
		return m, misuse("%q: want MODULE@VERSION", text)
	}
	if err := module.Check(path, version); err != nil {
		return m, misuse("%w", err)
	}
	return m, nil
}

func trustedCommand() *cli.Command {
	return showCommand(&cli.Command{
		Name:  "trusted",
		Usage: "list the hashes that are trusted because of go.sum files",
		Description: `Examples:

   meshproxy trusted
   meshproxy trusted --json`,
	}, func(c *cli.Context, ctl node.Control) ([]node.Trusted, error) { return ctl.Trusted(c.Context) }, orSay(printTrusted, "None. To trust those of a go.sum: meshproxy trust go.sum"))
}

func printTrusted(c *cli.Context, list []node.Trusted) error {
	t := newTable(c.App.Writer, "file", "hash", "from")
	for _, p := range list {
		t.AppendRow([]any{p.Name, p.H1, p.Origin})
	}
	return printTable(c.App.Writer, t)
}
