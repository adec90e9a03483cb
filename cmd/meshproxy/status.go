package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

// withControl lets do talk to the node that serves the data directory, or to its
// store when none does.
func withControl(c *cli.Context, do func(node.Control) error) error {
	dir := c.String("data")
	running, err := node.Dial(c.Context, dir)
	if err == nil {
		defer running.Close()
		return do(running)
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return err
	}
	offline, err := node.OpenOffline(c.Context, dir)
	if err != nil {
		return err
	}
	return errors.Join(do(offline), offline.Close())
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show this office at a glance",
		Description: `Asks the running node, or reads the store when none runs.

Examples:

   meshproxy status
   meshproxy status --json | jq -r .url`,
		Flags:  atFlags(jsonFlag()),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			if err := wantArgs(c); err != nil {
				return err
			}
			return withControl(c, func(ctl node.Control) error {
				st, err := ctl.Status(c.Context)
				if err != nil {
					return fmt.Errorf("status: %w", err)
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, st)
				}
				return printStatus(c, st)
			})
		},
	}
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
	return &cli.Command{
		Name:      "ls",
		Usage:     "list the module versions that this office holds",
		ArgsUsage: "[MODULE]",
		Description: `MODULE lists only that module and those below it.

Examples:

   meshproxy ls
   meshproxy ls golang.org/x
   meshproxy ls --modules                          # what each module takes
   meshproxy ls --json | jq -r '.[] | .Path + "@" + .Version'`,
		Flags:  atFlags(jsonFlag(), &cli.BoolFlag{Name: "modules", Usage: "one line for each module, with what its zips take"}),
		Before: withConfig,
		Action: func(c *cli.Context) error {
			prefix := ""
			if c.NArg() > 0 {
				prefix = c.Args().First()
			} else if err := wantArgs(c); err != nil {
				return err
			}
			if c.NArg() > 1 {
				return wantArgs(c, "MODULE")
			}
			return withControl(c, func(ctl node.Control) error {
				if c.Bool("modules") {
					return listModules(c, ctl, prefix)
				}
				return listReleases(c, ctl, prefix)
			})
		},
	}
}

func listReleases(c *cli.Context, ctl node.Control, prefix string) error {
	releases := []node.Release{}
	err := ctl.Releases(c.Context, prefix, func(r node.Release) error {
		releases = append(releases, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("ls: %w", err)
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, releases)
	}
	t := newTable(c.App.Writer, "module", "version", "holds", "size", "fetched", "by", "from", "vouched by")
	for _, r := range releases {
		t.AppendRow([]any{r.Path, r.Version.Version, strings.Join(r.Files, " "), bytesText(r.Size),
			r.Fetched.Local().Format(time.DateTime), r.Office, r.Source, r.Vouched})
	}
	return printTable(c.App.Writer, t)
}
