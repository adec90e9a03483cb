package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/verify"
)

func conflictsCommand() *cli.Command {
	return &cli.Command{
		Name:  "conflicts",
		Usage: "show contents that were refused because another one was there first",
		Description: `A second content for the same module version is never served: a tag was moved, or
somebody lies. Both statements are kept as evidence.

Examples:

   meshproxy conflicts
   meshproxy conflicts --json`,
		Flags:  atFlags(jsonFlag()),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c); err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error {
				list, err := ctl.Conflicts(c.Context)
				if err != nil {
					return fmt.Errorf("conflicts: %w", err)
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, list)
				}
				return printConflicts(c, list)
			})
		},
	}
}

func printConflicts(c *cli.Context, list []node.Conflict) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(c.App.Writer, "No conflicts.")
		return err
	}
	t := newTable(c.App.Writer, "file", "", "digest", "office", "from", "fetched")
	for _, x := range list {
		for _, side := range []struct {
			name string
			node.Statement
		}{{"kept", x.Kept}, {"refused", x.Other}} {
			t.AppendRow([]any{x.Name, side.name, side.Digest, side.Office, side.Source, side.Fetched.Local().Format(time.DateTime)})
		}
	}
	return printTable(c.App.Writer, t)
}

func trustCommand() *cli.Command {
	return &cli.Command{
		Name:      "trust",
		Usage:     "trust the hashes of go.sum files above everything else",
		ArgsUsage: "GO.SUM...",
		Description: `A module that is pinned so is refused if it has any other content, whoever says so.

Examples:

   meshproxy trust go.sum
   meshproxy trust project/*/go.sum
   meshproxy trust --forget golang.org/x/mod@v0.38.0`,
		Flags: atFlags(&cli.StringFlag{
			Name: "forget", Usage: "drop the pins of `MODULE@VERSION` instead",
		}),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if m := c.String("forget"); m != "" {
				return distrust(c, m)
			}
			if c.NArg() == 0 {
				return wantArgs(c, "GO.SUM")
			}
			return withControl(c, func(ctl node.Control) error {
				for _, path := range c.Args().Slice() {
					if err := trustFile(c, ctl, path); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
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
	_, err = fmt.Fprintf(c.App.Writer, "%s: %d new pins\n", path, n)
	return err
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

func distrust(c *cli.Context, text string) error {
	m, err := parseModule(text)
	if err != nil {
		return err
	}
	if err := wantArgs(c); err != nil {
		return err
	}
	return withControl(c, func(ctl node.Control) error {
		n, err := ctl.Distrust(c.Context, m)
		if err != nil {
			return fmt.Errorf("trust --forget: %w", err)
		}
		_, err = fmt.Fprintf(c.App.Writer, "%s: %d pins dropped\n", m, n)
		return err
	})
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
	return &cli.Command{
		Name:  "trusted",
		Usage: "list the hashes that are trusted because of go.sum files",
		Description: `Examples:

   meshproxy trusted
   meshproxy trusted --json`,
		Flags:  atFlags(jsonFlag()),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c); err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error {
				list, err := ctl.Trusted(c.Context)
				if err != nil {
					return fmt.Errorf("trusted: %w", err)
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, list)
				}
				t := newTable(c.App.Writer, "file", "hash", "from")
				for _, p := range list {
					t.AppendRow([]any{p.Name, p.H1, p.Origin})
				}
				return printTable(c.App.Writer, t)
			})
		},
	}
}

func proofCommand() *cli.Command {
	return &cli.Command{
		Name:      "proof",
		Usage:     "write down who vouches for a module version",
		ArgsUsage: "MODULE@VERSION",
		Description: `Prints a proof file, which meshproxy check reads on any machine, without network and
without a node.

Examples:

   meshproxy proof golang.org/x/mod@v0.38.0 > mod.proof
   meshproxy proof --file mod golang.org/x/mod@v0.38.0`,
		Flags: atFlags(&cli.StringFlag{
			Name: "file", Value: "zip", Usage: "prove this `FILE` of it: info, mod or zip",
		}),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, "MODULE@VERSION"); err != nil {
				return err
			}
			m, err := parseModule(c.Args().First())
			if err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error {
				text, err := ctl.Proof(c.Context, node.ProofQuery{Module: m, Kind: c.String("file")})
				if err != nil {
					return fmt.Errorf("proof: %w", err)
				}
				_, err = c.App.Writer.Write(text)
				return err
			})
		},
	}
}

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "check a proof file, without network and without a node",
		ArgsUsage: "FILE",
		Description: `FILE is what meshproxy proof printed, - for standard input. The database's key comes
from --sumdb, whose default is what go env GOSUMDB says.

Examples:

   meshproxy check mod.proof
   meshproxy proof golang.org/x/mod@v0.38.0 | meshproxy check -`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "sumdb", EnvVars: env("sumdb"), DefaultText: "go env GOSUMDB", Usage: "believe this database, `SPEC` is written like GOSUMDB"},
			configFlag(), jsonFlag(),
		},
		Before: withConfig,
		Action: checkProof,
	}
}

func checkProof(c *cli.Context) error {
	if err := wantArgs(c, "FILE"); err != nil {
		return err
	}
	keys, err := databaseKeys(c)
	if err != nil {
		return err
	}
	data, err := readFile(c.Args().First(), verify.MaxProofFile)
	if err != nil {
		return err
	}
	f, err := verify.CheckProofFile(data, keys)
	if err != nil {
		return err
	}
	rec := &f.Signed.Record
	said := proofSaid{
		File: rec.Name.String(), Digest: rec.Digest.H1(), Database: f.Database, Signer: f.Signed.Signer.String(),
		Office: rec.Office, Source: rec.Source, Fetched: rec.Fetched,
	}
	if rec.Name.Kind == verify.Info {
		said.Digest = "sha256:" + rec.Digest.Hex()
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, said)
	}
	by := "checksum database " + said.Database
	if said.Database == "" {
		by = "only the office that fetched it"
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s is %s\nvouched for by %s\nfetched by office %s (%s) from %s on %s\n",
		said.File, said.Digest, by, said.Office, said.Signer, said.Source, said.Fetched.Format(time.RFC3339))
	return err
}

// proofSaid is what a proof file that holds says.
type proofSaid struct {
	File     string    `json:"file"`
	Digest   string    `json:"digest"`
	Database string    `json:"database,omitempty"` // that vouches; empty: only the signer does
	Signer   string    `json:"signer"`
	Office   string    `json:"office"`
	Source   string    `json:"source"`
	Fetched  time.Time `json:"fetched"`
}

func databaseKeys(c *cli.Context) ([]note.Verifier, error) {
	text := c.String("sumdb")
	if text == "" {
		e, err := readGoEnv(c.Context)
		if err != nil {
			return nil, fmt.Errorf("%w; give --sumdb", err)
		}
		text = e.GOSUMDB
	}
	spec, err := verify.ParseSpec(text)
	if err != nil {
		return nil, misuse("--sumdb: %w", err)
	}
	if spec.Off {
		return nil, nil
	}
	key, err := note.NewVerifier(spec.Key)
	return []note.Verifier{key}, err
}
