package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/node"
)

const (
	maxPassphrase = 4 << 10
	maxKeys       = 96 << 20 // a roster of as many members as there can be
)

func keysCommand() *cli.Command {
	return group(&cli.Command{
		Name:  "keys",
		Usage: "put away what makes this node the office that it is, or bring it back",
	}, keysExportCommand(), keysImportCommand())
}

func passphraseFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "passphrase-file", EnvVars: env("passphrase-file"), TakesFile: true, Usage: "the passphrase is the first line of this `FILE`; - is standard input"},
		&cli.BoolFlag{Name: "no-passphrase", EnvVars: env("no-passphrase"), Usage: "leave the keys open to whoever has the file"},
	}
}

func keysExportCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "export",
		Usage:     "write the keys to a file",
		ArgsUsage: "FILE",
		Description: `In it are this node's own key, its place in the mesh, and on the founder's node the
mesh's key. Whoever has the file and the passphrase is this office. A backup has the
modules and not the key: keep both, and not together.

Examples:

   meshproxy keys export /safe/berlin.keys
   meshproxy keys export --passphrase-file /run/secrets/keys - | lpr`,
		Flags: passphraseFlags(),
	}, func(c *cli.Context, ctl node.Control) error {
		pass, err := passphrase(c, true)
		if err != nil {
			return err
		}
		text, err := ctl.ExportKeys(c.Context, pass)
		if err != nil {
			return err
		}
		return writeWhole(c.Args().First(), c.App.Writer, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		})
	})
}

func keysImportCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "import",
		Usage:     "make a data directory that of the office whose keys these are",
		ArgsUsage: "FILE",
		Description: `No node may run on the data directory; what it holds stays. Two nodes with one key
stand in each other's way: the old one must be gone.

Examples:

   meshproxy keys import /safe/berlin.keys
   meshproxy restore /backup/meshproxy && meshproxy keys import /safe/berlin.keys`,
		Flags: atFlags(append(passphraseFlags(),
			&cli.BoolFlag{Name: "replace", Usage: "give up the key that the data directory has"})...),
	}, func(c *cli.Context) error {
		text, err := readFile(c.Args().First(), maxKeys)
		if err != nil {
			return fmt.Errorf("keys import: %w", err)
		}
		pass := ""
		if !strings.Contains(string(text), mesh.OpenKeys) {
			if pass, err = passphrase(c, false); err != nil {
				return err
			}
		}
		err = node.ImportKeys(c.Context, c.String("data"), text, pass, c.Bool("replace"))
		if errors.Is(err, mesh.ErrOtherNode) {
			return fmt.Errorf("%w; --replace gives it up", err)
		}
		return err
	})
}

// passphrase asks the file that a flag names, or a person. Who chooses one types it
// twice.
func passphrase(c *cli.Context, choose bool) (string, error) {
	switch path := c.String("passphrase-file"); {
	case c.Bool("no-passphrase") && path != "":
		return "", misuse("--no-passphrase and --passphrase-file exclude each other")
	case c.Bool("no-passphrase"):
		return "", nil
	case path != "":
		text, err := readFile(path, maxPassphrase)
		line, _, _ := strings.Cut(string(text), "\n")
		line = strings.TrimSuffix(line, "\r")
		if err == nil && line == "" {
			err = fmt.Errorf("%s: its first line is empty; --no-passphrase does without", path)
		}
		return line, err
	}
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return "", misuse("a passphrase is needed, and there is no terminal to ask: give --passphrase-file or --no-passphrase")
	}
	first, err := prompt(c, in, "Passphrase: ")
	if err != nil || !choose {
		return first, err
	}
	second, err := prompt(c, in, "Once more: ")
	switch {
	case err != nil:
		return "", err
	case first == "":
		return "", misuse("an empty passphrase; --no-passphrase does without")
	case first != second:
		return "", misuse("the two are not the same")
	}
	return first, nil
}

func prompt(c *cli.Context, in int, text string) (string, error) {
	fmt.Fprint(c.App.ErrWriter, text)
	line, err := term.ReadPassword(in)
	fmt.Fprintln(c.App.ErrWriter)
	return string(line), err
}
