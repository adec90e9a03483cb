package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
)

// sizeFlag reads sizes as people write them: 10GB, 500MiB.
func sizeFlag(name, usage, category string) cli.Flag {
	return &cli.StringFlag{Name: name, EnvVars: env(name), Usage: usage, Category: category}
}

// size is the value of a sizeFlag in bytes, 0 if it is not set.
func size(c *cli.Context, name string) (int64, error) {
	text := c.String(name)
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<62 {
		return 0, misuse("--%s %q: want a size like 20GB or 500MiB", name, text)
	}
	return int64(n), nil
}

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

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "drop zips that were not used for long, and give the space back",
		Description: `Never drops what is pinned, nor what may be the last copy in the mesh.

Examples:

   meshproxy gc --max-size 20GB
   meshproxy gc --max-age 2160h --dry-run`,
		Flags: atFlags(jsonFlag(),
			sizeFlag("max-size", "drop until files take less than this `SIZE`", ""),
			&cli.DurationFlag{Name: "max-age", EnvVars: env("max-age"), Usage: "drop what was not read for this `TIME`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only say what would be dropped"}),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c); err != nil {
				return err
			}
			most, err := size(c, "max-size")
			if err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error {
				p := newProgress(c, "gc")
				r, err := ctl.GC(c.Context, node.Limits{MaxSize: most, MaxAge: c.Duration("max-age"), DryRun: c.Bool("dry-run")}, p.show)
				p.end()
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, r)
				}
				_, err = fmt.Fprintf(c.App.Writer, "dropped %d zips, freed %s; kept %d that may be the last copies and %d that are pinned; %s on disk\n",
					len(r.Dropped), bytesText(r.Freed), len(r.Kept), r.Pinned, bytesText(r.Disk))
				return err
			})
		},
	}
}

// errDamage is the outcome of a verify that found something.
var errDamage = errors.New("damage was found; what is damaged is not served, and a running node heals it from other offices or the upstream")

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "read and hash everything that is held",
		Description: `Names each damaged file. It is never served; a running node heals it from other
offices or the upstream. Exit status 1 if there is any.

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
	var err error
	if c.Bool("json") {
		err = printJSON(c.App.Writer, r)
	} else {
		for _, problem := range r.Problems {
			fmt.Fprintln(c.App.Writer, problem)
		}
		_, err = fmt.Fprintf(c.App.Writer, "%d files, %s: %d damaged\n", r.Files, bytesText(r.Bytes), len(r.Problems))
	}
	if err == nil && len(r.Problems) > 0 {
		err = errDamage
	}
	return err
}

func backupCommand() *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "copy everything that is held to a file, while the node goes on",
		ArgsUsage: "FILE",
		Description: `FILE is made anew; - is standard output. The node's private key is not in it.

Examples:

   meshproxy backup /backup/meshproxy
   meshproxy backup - | zstd > backup.zst`,
		Flags:  atFlags(),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, "FILE"); err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error {
				return writeWhole(c.Args().First(), c.App.Writer, func(w io.Writer) error {
					return ctl.Backup(c.Context, func(piece []byte) error {
						_, err := w.Write(piece)
						return err
					})
				})
			})
		},
	}
}

// writeWhole has write fill a new file, or stdout for "-". A file appears under
// its name only when it is whole.
func writeWhole(path string, stdout io.Writer, write func(io.Writer) error) error {
	if path == "-" {
		return write(stdout)
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(part) // fails once it has its name
	w := bufio.NewWriterSize(f, 1<<20)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "make a data directory of a backup",
		ArgsUsage: "FILE",
		Description: `The data directory must not exist, or be empty. Everything is checked first.

Examples:

   meshproxy restore --data /srv/meshproxy /backup/meshproxy
   zstd -d < backup.zst | meshproxy restore --data /srv/meshproxy -`,
		Flags:  atFlags(),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, "FILE"); err != nil {
				return err
			}
			f := os.Stdin
			if path := c.Args().First(); path != "-" {
				var err error
				if f, err = os.Open(path); err != nil {
					return err
				}
				defer f.Close()
			}
			p := newProgress(c, "restore")
			defer p.end()
			return store.Restore(c.Context, c.String("data"), f, store.Options{}, p.show)
		},
	}
}

// progress shows how far something is: on one line of a terminal, else on a new
// line from time to time.
type progress struct {
	w        io.Writer
	name     string
	terminal bool
	start    time.Time
	last     time.Time
}

const (
	progressTerminal = 200 * time.Millisecond
	progressPlain    = 10 * time.Second
)

func newProgress(c *cli.Context, name string) *progress {
	p := &progress{w: c.App.ErrWriter, name: name, start: time.Now(), last: time.Now()}
	if f, ok := p.w.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	return p
}

func (p *progress) show(at store.Progress) {
	pause := progressPlain
	if p.terminal {
		pause = progressTerminal
	}
	if time.Since(p.last) < pause {
		return
	}
	p.last = time.Now()
	text := fmt.Sprintf("%s: %d", p.name, at.Done)
	if at.Total > 0 {
		text += fmt.Sprintf(" of %d", at.Total)
	}
	took := time.Since(p.start)
	text += fmt.Sprintf(", %s, %s/s", bytesText(at.Bytes), bytesText(int64(float64(at.Bytes)/took.Seconds())))
	if at.Total > at.Done && at.Done > 0 {
		left := time.Duration(float64(took) * float64(at.Total-at.Done) / float64(at.Done))
		text += ", " + left.Round(time.Second).String() + " left"
	}
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
	} else {
		fmt.Fprintln(p.w, text)
	}
}

// end leaves the line to whoever writes next.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
