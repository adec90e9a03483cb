package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/meshproxy/meshproxy/node"
)

func proofCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "proof",
		Usage:     "show who vouches for a module version, and write down why",
		ArgsUsage: "MODULE@VERSION",
		Description: `Prints who vouches for each file, and after that a proof, which meshproxy check reads
on any machine, without network and without a node.

Examples:

   meshproxy proof golang.org/x/mod@v0.38.0
   meshproxy proof -o mod.proof golang.org/x/mod@v0.38.0
   meshproxy proof --file mod golang.org/x/mod@v0.38.0 | meshproxy check -`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "file", DefaultText: "all that are held", Usage: "prove this `FILE` of it only: info, mod or zip"},
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, TakesFile: true, Usage: "write the proof into this `FILE`"},
			jsonFlag(),
		},
		Before: func(c *cli.Context) error {
			_, err := proofQuery(c)
			return err
		},
	}, proof)
}

func proofQuery(c *cli.Context) (q node.ProofQuery, err error) {
	if q.Module, err = parseModule(c.Args().First()); err != nil {
		return q, err
	}
	switch q.Kind = c.String("file"); q.Kind {
	case "", "info", "mod", "zip":
		return q, nil
	default:
		return q, misuse("--file %q: want info, mod or zip", q.Kind)
	}
}

func proof(c *cli.Context, ctl node.Control) error {
	q, err := proofQuery(c)
	if err != nil {
		return err
	}
	p, err := ctl.Proof(c.Context, q)
	if err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	return printProof(c, p)
}

func printProof(c *cli.Context, p *node.Proven) error {
	var b bytes.Buffer
	if c.Bool("json") {
		if err := printJSON(&b, p.Files); err != nil {
			return err
		}
	} else {
		describe(&b, p.Files)
	}
	path := c.String("out")
	if path == "" && !c.Bool("json") {
		fmt.Fprintf(&b, "\n%s", p.Text)
	}
	if path != "" {
		if err := os.WriteFile(path, p.Text, 0o644); err != nil {
			return err
		}
	}
	_, err := b.WriteTo(c.App.Writer)
	return err
}

// describe says in words who vouches for files.
func describe(w io.Writer, said []node.Checked) {
	for _, f := range said {
		fmt.Fprintf(w, "%s is %s\n", f.File, f.Digest)
		if f.Database != "" {
			fmt.Fprintf(w, "   vouched for by checksum database %s: record %d of %d\n", f.Database, f.Record, f.Tree)
		} else {
			fmt.Fprintf(w, "   vouched for by its signer only\n")
		}
		who := "who shows no credential"
		if f.MeshKey != "" {
			who = f.Role + " of mesh " + f.MeshKey
		}
		fmt.Fprintf(w, "   signed by %s, %s\n", f.Signer, who)
		fmt.Fprintf(w, "   fetched by office %s from %s on %s\n", f.Office, f.Source, f.Fetched.UTC().Format(time.RFC3339))
	}
}

func checkCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "check",
		Usage:     "check a proof, without network and without a node",
		ArgsUsage: "FILE",
		Description: `FILE is what meshproxy proof wrote, - for standard input. Every .mod and .zip must be
proved by a checksum database, whose key comes from --sumdb or else go env GOSUMDB, or
be signed by a member of the mesh that --mesh names. Nobody but a member vouches for
an .info. Whether the member was revoked since cannot be seen offline.

Examples:

   meshproxy check mod.proof
   meshproxy proof golang.org/x/mod@v0.38.0 | meshproxy check -
   meshproxy check --mesh 12D3KooW... private.proof`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "sumdb", EnvVars: env("sumdb"), DefaultText: "go env GOSUMDB", Usage: "believe this database, `SPEC` is written like GOSUMDB; several with ; between them"},
			&cli.StringFlag{Name: "mesh", EnvVars: env("mesh"), Usage: "believe members of the mesh with this `KEY`, as meshproxy status shows it"},
			configFlag(), jsonFlag(),
		},
	}, check)
}

func check(c *cli.Context) error {
	keys, err := databaseKeys(c)
	if err != nil {
		return err
	}
	data, err := readFile(c.Args().First(), node.MaxProof)
	if err != nil {
		return err
	}
	said, err := node.CheckProof(data, keys, c.String("mesh"))
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, said)
	}
	describe(c.App.Writer, said)
	return nil
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
	specs, err := node.ParseSumDB(text)
	if err != nil {
		return nil, misuse("--sumdb: %w", err)
	}
	var keys []note.Verifier
	for _, s := range specs {
		key, err := note.NewVerifier(s.Key)
		if err != nil {
			return nil, misuse("--sumdb: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
