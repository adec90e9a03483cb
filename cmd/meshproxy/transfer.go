package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/store/transfer"
	"github.com/meshproxy/meshproxy/verify"
)

func importCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "import",
		Usage:     "take in modules from a directory, or fetch what a project needs",
		ArgsUsage: "DIR",
		Description: `DIR is a module cache (GOMODCACHE), a GOPROXY of files, or the disk storage of Athens;
or a project with a go.mod, whose modules are fetched as if it were built. Everything
is verified as if it came from an upstream; what is refused is listed, and then the
exit status is 1. May be interrupted: the same command goes on from there.

The running node does it, and reads DIR itself. When none runs, the office is brought
up for as long as it takes.

Examples:

   meshproxy import "$(go env GOMODCACHE)"
   meshproxy import /srv/athens
   meshproxy import .                              # a project
   meshproxy import --format goproxy --json /mnt/tree`,
		Flags: append(officeFlags(), jsonFlag(), &cli.StringFlag{
			Name: "format", EnvVars: env("format"), DefaultText: "found out",
			Usage: "read DIR as this `FORMAT`: modcache, goproxy, athens or project",
		}),
	}, importModules)
}

const formatProject = "project"

func importModules(c *cli.Context) error {
	format := c.String("format")
	if format != "" && !slices.Contains([]string{string(transfer.ModCache), string(transfer.Proxy), string(transfer.Athens), formatProject}, format) {
		return misuse("--format %q: want modcache, goproxy, athens or project", format)
	}
	dir, err := filepath.Abs(c.Args().First())
	if err != nil {
		return err
	}
	if format == formatProject || format == "" && isProject(dir) {
		return prefetch(c, dir)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("import: %s is not a directory", dir)
	}
	return withOffice(c, func(ctx context.Context, ctl node.Control) error {
		r, err := withProgress(c, "import", func(p func(store.Progress)) (*node.Transferred, error) {
			return ctl.Import(ctx, node.Tree{Dir: dir, Format: transfer.Format(format)}, p)
		})
		return printTransferred(c, "imported", "", r, err)
	})
}

// isProject reports whether dir is a project's, or one of the files that say what
// a project needs.
func isProject(dir string) bool {
	if slices.Contains(projectFiles, filepath.Base(dir)) {
		return true
	}
	return slices.ContainsFunc(projectFiles, func(name string) bool {
		info, err := os.Stat(filepath.Join(dir, name))
		return err == nil && info.Mode().IsRegular()
	})
}

var projectFiles = []string{"go.mod", "go.sum", "go.work", "go.work.sum"}

// projectNeeds lists the files that a project needs; path is its directory, or one
// of the files in it that say so.
func projectNeeds(path string) ([]verify.Name, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if !slices.Contains(projectFiles, filepath.Base(path)) {
			return nil, fmt.Errorf("%s: want a project's directory, or its go.mod, go.sum or go.work", path)
		}
		path = filepath.Dir(path)
	}
	names, err := transfer.Project(path)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s: the project needs no modules", path)
	}
	return names, err
}

func prefetch(c *cli.Context, dir string) error {
	names, err := projectNeeds(dir)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	return fetchAll(c, names)
}

func exportCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "export",
		Usage:     "write modules as a GOPROXY of files",
		ArgsUsage: "DIR",
		Description: `DIR works as GOPROXY=file://DIR. What is there already is compared and stays; so an
export that was interrupted goes on with the same command. With --for, a running node
first gets what the project needs and this office lacks; what cannot be had is listed,
and then the exit status is 1. The running node writes DIR itself.

Examples:

   meshproxy export /mnt/stick/modules
   meshproxy export --for ./go.mod /mnt/stick/modules
   GOPROXY=file:///mnt/stick/modules go build ./...`,
		Flags: []cli.Flag{jsonFlag(), &cli.StringFlag{
			Name: "for", EnvVars: env("for"), TakesFile: true, Usage: "only what the project of this `GO.MOD` needs; its go.sum says what",
		}},
	}, exportModules)
}

func exportModules(c *cli.Context, ctl node.Control) error {
	e := node.Export{}
	var err error
	if e.Dir, err = filepath.Abs(c.Args().First()); err != nil {
		return err
	}
	if project := c.String("for"); project != "" {
		e.Only = true
		if e.Want, err = projectNeeds(project); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	r, err := withProgress(c, "export", func(p func(store.Progress)) (*node.Transferred, error) {
		return ctl.Export(c.Context, e, p)
	})
	return printTransferred(c, "exported", "", r, err)
}

// maxPrinted bounds how many refused files are listed for people; JSON has more.
const maxPrinted = 100

// printTransferred says what was done, or why it ended. Sizes are those of files as
// sizes says.
func printTransferred(c *cli.Context, verb, sizes string, r *node.Transferred, err error) error {
	if err != nil {
		return interrupted(c.Context, err)
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, r)
	} else {
		for _, f := range r.Refused[:min(len(r.Refused), maxPrinted)] {
			fmt.Fprintf(c.App.Writer, "refused  %s: %s\n", f.File, reasonText(f))
		}
		if more := r.Refusals - maxPrinted; more > 0 {
			fmt.Fprintf(c.App.Writer, "refused  %d more; --json lists them\n", more)
		}
		_, err = fmt.Fprintf(c.App.Writer, "%s %d files, %s%s; %d were there already; %d refused\n",
			verb, r.Files, bytesText(r.Bytes), sizes, r.Skipped, r.Refusals)
	}
	if err == nil && r.Refusals > 0 {
		err = fmt.Errorf("%d files were refused", r.Refusals)
	}
	return err
}

// reasonText is why a file was refused, on one line that does not name the file again.
func reasonText(f node.Refused) string {
	reason := strings.Join(strings.Fields(f.Reason), " ")
	return strings.Replace(reason, f.File+": ", "", 1)
}

// officeFlags are those of commands that bring the office up when it does not run:
// all of serve that are not about serving the go command.
func officeFlags() []cli.Flag {
	return slices.DeleteFunc(serveFlags(), func(f cli.Flag) bool {
		in, ok := f.(cli.CategorizableFlag)
		return ok && (in.GetCategory() == catServe || in.GetCategory() == catKeep)
	})
}

// withOffice lets do talk to the node that serves the data directory; when none
// does, to one that is up for as long as do takes.
func withOffice(c *cli.Context, do func(context.Context, node.Control) error) error {
	running, err := node.Dial(c.Context, c.String("data"))
	if err == nil {
		defer running.Close()
		return do(c.Context, running)
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return err
	}
	if !c.IsSet("log-level") {
		if err := c.Set("log-level", "error"); err != nil { // who asked sees the outcome
			return err
		}
	}
	cfg, err := nodeConfig(c)
	if err != nil {
		return err
	}
	n, err := node.New(c.Context, cfg)
	if err != nil {
		return startError(err)
	}
	ctx, end := context.WithCancel(c.Context)
	defer end()
	ran := make(chan error, 1)
	go func() {
		defer end() // without a node nothing can be done
		ran <- n.Run(ctx)
	}()
	err = do(ctx, n)
	end()
	return errors.Join(err, notInterrupted(<-ran), n.Close())
}

func notInterrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// startError says of an error of node.New what to do about it.
func startError(err error) error {
	var wrong *node.ConfigError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "policy":
		return misuse("%w", wrong.Err) // of several flags; it says which file is meant
	case errors.As(err, &wrong):
		return misuse("--%w", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; stop what is there, or choose other ports with --listen and --p2p", err)
	}
	return err
}
