package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
)

func backupCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "backup",
		Usage:     "copy everything that is held to a file, while the node goes on",
		ArgsUsage: "FILE",
		Description: `FILE is made anew; - is standard output. The node's own key is not in it, but the
mesh's is, on the node that founded the mesh: keep FILE as safe as the node.

Examples:

   meshproxy backup /backup/meshproxy
   meshproxy backup - | zstd > backup.zst`,
		Flags: []cli.Flag{jsonFlag()},
	}, backUp)
}

// copied is what a backup or its restoring was.
type copied struct {
	Bytes int64 `json:"bytes"`
}

func backUp(c *cli.Context, ctl node.Control) error {
	p := newProgress(c, "backup")
	p.sizes = true
	start := time.Now()
	at := store.Progress{}
	if st, err := ctl.Status(c.Context); err == nil { // without the node's key there is none
		at.Total = st.Store.Stored // about
	}
	err := writeWhole(c.Args().First(), c.App.Writer, func(w io.Writer) error {
		return ctl.Backup(c.Context, func(piece []byte) error {
			_, err := w.Write(piece)
			at.Done += int64(len(piece))
			at.Bytes = at.Done
			p.show(at)
			return err
		})
	})
	p.end(err)
	if err != nil {
		return backupError(c, err)
	}
	took := time.Since(start)
	return reportTo(c, c.Args().First() == "-", copied{at.Bytes},
		fmt.Sprintf("backed up %s in %s", bytesText(at.Bytes), took.Round(time.Millisecond)))
}

// backupError says of an interrupted backup that nothing of it is left.
func backupError(c *cli.Context, err error) error {
	if c.Context.Err() != nil {
		return errors.New("interrupted; nothing is left of it")
	}
	return err
}

// writeWhole has write fill a new file, or stdout for "-". A file appears under
// its name only when it is whole.
func writeWhole(path string, stdout io.Writer, write func(io.Writer) error) error {
	if path == "-" {
		return write(stdout)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return misuse("%s is a directory: want a file", path)
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
	return command(&cli.Command{
		Name:      "restore",
		Usage:     "make a data directory of a backup",
		ArgsUsage: "FILE",
		Description: `The data directory must not exist, or be empty. Everything is checked first, and the
directory is there whole or not at all. The node on it is the same office as before
once that one's key is put back; with --new-office it is another one, in a mesh of its
own until it joins.

Examples:

   meshproxy restore --data /srv/meshproxy /backup/meshproxy
   meshproxy restore --new-office --data /srv/second /backup/meshproxy
   zstd -d < backup.zst | meshproxy restore --data /srv/meshproxy -`,
		Flags: atFlags(jsonFlag(), &cli.BoolFlag{
			Name: "new-office", Usage: "forget the place in the mesh, and keep the modules",
		}),
	}, restore)
}

func restore(c *cli.Context) error {
	f := os.Stdin
	if path := c.Args().First(); path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return err
		}
		defer f.Close()
	}
	p := newProgress(c, "restore")
	var bytes int64
	err := node.Restore(c.Context, c.String("data"), f, c.Bool("new-office"), func(at store.Progress) {
		bytes = max(bytes, at.Bytes)
		p.show(at)
	})
	p.end(err)
	if err != nil {
		return backupError(c, err)
	}
	return reportTo(c, false, copied{bytes}, "restored "+bytesText(bytes)+" to "+c.String("data"))
}
