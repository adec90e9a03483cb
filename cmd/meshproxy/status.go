package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func statusCommand() *cli.Command {
	return showCommand(&cli.Command{
		Name:  "status",
		Usage: "show this office at a glance",
		Description: `Asks the running node, or reads the store when none runs.

Examples:

   meshproxy status
   meshproxy status --json | jq -r .url`,
	}, func(c *cli.Context, ctl node.Control) (*node.Status, error) { return ctl.Status(c.Context) }, printStatus)
}

func printStatus(c *cli.Context, st *node.Status) error {
	t := newTable(c.App.Writer)
	row := func(name string, value any) {
		if text := fmt.Sprint(value); text != "" {
			t.AppendRow([]any{name, text})
		}
	}
	state := "not running"
	if st.Running {
		state = "running for " + time.Since(st.Started).Round(time.Second).String()
	}
	row("node", state)
	row("GOPROXY", st.URL)
	row("data", st.Data)
	row("office", strings.TrimSpace(st.Office+" "+parens(st.Role)))
	row("peer ID", st.PeerID)
	row("mesh", st.Mesh)
	row("mesh addresses", strings.Join(st.P2P, "\n"))
	row("upstreams", strings.Join(st.Upstreams, ", "))
	row("checksum databases", strings.Join(st.SumDB, ", "))
	row("other offices", fmt.Sprintf("%d known, %d connected", st.Known, st.Connected))
	storeRows(row, st)
	for _, s := range st.Served {
		row("from "+s.Source, fmt.Sprintf("%d answers, %s", s.Answers, bytesText(s.Bytes)))
	}
	if st.Running {
		row("errors", st.Errors)
	}
	row("conflicts", st.Conflicts)
	row("ALARM", strings.Join(st.Alarms, "\n"))
	return printTable(c.App.Writer, t)
}

func parens(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

func lsCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "ls",
		Usage:     "list the module versions that this office holds",
		ArgsUsage: "[MODULE]",
		Description: `MODULE lists only that module and those below it.

Examples:

   meshproxy ls
   meshproxy ls golang.org/x
   meshproxy ls --modules                          # what each module takes
   meshproxy ls --replicas                         # which offices hold each zip
   meshproxy ls --json | jq -r '.[] | .Path + "@" + .Version'`,
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.BoolFlag{Name: "modules", Usage: "one line for each module, with what its zips take"},
			&cli.BoolFlag{Name: "replicas", Usage: "which offices hold each zip now; asks the other offices"},
		},
		Before: func(c *cli.Context) error {
			if m := c.Args().First(); strings.Contains(m, "@") {
				return misuse("%q: want MODULE without a version; of one version tells: meshproxy why", m)
			}
			if c.Bool("modules") && c.Bool("replicas") {
				return misuse("--modules and --replicas are two different lists: give one of them")
			}
			return nil
		},
	}, func(c *cli.Context, ctl node.Control) error {
		switch {
		case c.Bool("modules"):
			return showAll(c, ctl.Modules, printModules)
		case c.Bool("replicas"):
			return showAll(c, ctl.Replicas, printReplicas)
		}
		return showAll(c, ctl.Releases, printReleases)
	})
}

// showAll prints everything that each tells of below the module of the command line.
func showAll[T any](c *cli.Context, each func(context.Context, string, func(T) error) error, print func(*cli.Context, []T) error) error {
	list := []T{}
	below := strings.TrimSuffix(c.Args().First(), "/")
	err := each(c.Context, below, func(item T) error {
		list = append(list, item)
		return nil
	})
	if err != nil {
		return fmt.Errorf("ls: %w", err)
	}
	none := "Nothing is held yet."
	if below != "" {
		none = "Nothing is held of " + below + ", nor of modules below it."
	}
	return show(c, list, orSay(print, none))
}

func printReleases(c *cli.Context, releases []node.Release) error {
	t := newTable(c.App.Writer, "module", "version", "holds", "unpacked", "fetched", "by", "from", "vouched by")
	for _, r := range releases {
		t.AppendRow([]any{r.Path, r.Version.Version, strings.Join(r.Files, " "), bytesText(r.Size),
			r.Fetched.Local().Format(time.DateTime), r.Office, r.Source, r.Vouched})
	}
	return printTable(c.App.Writer, t)
}
