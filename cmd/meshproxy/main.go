// Command meshproxy runs one office's node of a mesh of Go module proxies, and
// talks to it.
//
// It reads flags, environment and an optional configuration file, wires the
// packages below it together, and turns their errors into one sentence on
// standard error and an exit status: 0 done, 1 failed, 2 asked wrongly. Results
// go to standard output, everything else to standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dropEmptyEnv()
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// dropEmptyEnv makes a variable that is set to nothing mean what it means to most
// programs, the go command among them: that it is not set.
func dropEmptyEnv() {
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); value == "" && strings.HasPrefix(name, envPrefix) {
			os.Unsetenv(name)
		}
	}
}

const (
	exitOK     = 0
	exitFailed = 1
	exitMisuse = 2
)

// errMisuse marks an error of whoever typed the command.
type errMisuse struct{ err error }

func (e errMisuse) Error() string { return e.err.Error() }
func (e errMisuse) Unwrap() error { return e.err }

func misuse(format string, args ...any) error { return errMisuse{fmt.Errorf(format, args...)} }

// run is main with its surroundings passed in. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := newApp(stdout, stderr).RunContext(ctx, args)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "meshproxy: %s\n", strings.TrimSpace(err.Error()))
	var wrong errMisuse
	if errors.As(err, &wrong) {
		return exitMisuse
	}
	return exitFailed
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:  "meshproxy",
		Usage: "a Go module proxy that shares its cache with your other offices",
		Description: `Start a node, point the go command at it, and add an office:

   meshproxy serve
   go env -w GOPROXY=http://127.0.0.1:3000
   meshproxy invite          # prints a TOKEN; in the other office: meshproxy join TOKEN`,
		Writer: stdout, ErrWriter: stderr,
		HideVersion: true, Suggest: true,
		ExitErrHandler: func(*cli.Context, error) {}, // run decides
		OnUsageError:   onUsageError,
		Action:         noCommand,
		Commands: []*cli.Command{
			serveCommand(), statusCommand(), lsCommand(),
			inviteCommand(), joinCommand(), peersCommand(), invitesCommand(), revokeCommand(), leaveCommand(), rotateCommand(),
			trustCommand(), trustedCommand(), conflictsCommand(), proofCommand(), checkCommand(),
			pinCommand(), unpinCommand(), gcCommand(), verifyCommand(), importCommand(), exportCommand(), backupCommand(), restoreCommand(),
			doctorCommand(), versionCommand(),
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = onUsageError
		c.HideHelpCommand = true
	}
	return app
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	return misuse("%w; see: %s --help", err, commandName(c))
}

func commandName(c *cli.Context) string {
	if c.Command == nil || c.Command.HelpName == "" {
		return "meshproxy"
	}
	return c.Command.HelpName
}

// noCommand runs when the first argument names no command.
func noCommand(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		var names []string
		for _, known := range c.App.Commands {
			names = append(names, known.Name)
		}
		return misuse("there is no command %q; did you mean %s?", name, nearest(name, names))
	}
	c.App.Writer = c.App.ErrWriter
	if err := cli.ShowAppHelp(c); err != nil {
		return err
	}
	return misuse("say what to do")
}

// wantArgs checks the number of arguments after the flags.
func wantArgs(c *cli.Context, names ...string) error {
	args := c.Args().Slice()
	for _, a := range args {
		if strings.HasPrefix(a, "-") && a != "-" {
			return misuse("flag %s stands after %q: put the flags before the arguments", a, args[0])
		}
	}
	if len(args) < len(names) {
		return misuse("%s is missing; see: %s --help", names[len(args)], commandName(c))
	}
	if len(args) > len(names) {
		return misuse("unexpected argument %q; see: %s --help", args[len(names)], commandName(c))
	}
	return nil
}
