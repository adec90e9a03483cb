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
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // who asks twice to end does not want to wait
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
	app := newApp(stdout, stderr)
	line := flagsFirst(app, args)
	app.Metadata = map[string]any{metaLine: line}
	err := app.RunContext(ctx, line)
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
	return &cli.App{
		Name:      "meshproxy",
		Usage:     "a Go module proxy that shares its cache with your other offices",
		UsageText: "meshproxy COMMAND [options] [arguments]",
		Description: `Start a node, point the go command at it, and add an office:

   meshproxy serve
   go env -w GOPROXY=http://127.0.0.1:3000
   meshproxy invite          # prints a TOKEN; in the other office: meshproxy join TOKEN`,
		Writer: stdout, ErrWriter: stderr,
		HideVersion: true, EnableBashCompletion: true,
		Flags:          []cli.Flag{&cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true}},
		ExitErrHandler: func(*cli.Context, error) {}, // run decides
		OnUsageError:   onUsageError,
		Action:         noCommand,
		Commands: slices.Concat(
			in("An office", serveCommand(), statusCommand(), doctorCommand(), setupCommand(), configCommand(), debugCommand()),
			in("Its mesh", inviteCommand(), joinCommand(), peersCommand(), invitesCommand(), revokeCommand(), leaveCommand(), rotateCommand(), keysCommand()),
			in("Its modules", lsCommand(), whyCommand(), prefetchCommand(), importCommand(), exportCommand(), publishCommand(),
				pinCommand(), unpinCommand(), gcCommand(), verifyCommand(), backupCommand(), restoreCommand()),
			in("Its trust and policy", trustCommand(), trustedCommand(), conflictsCommand(), proofCommand(), checkCommand(),
				policyCommand(), clientTokenCommand()),
			in("A mesh to try", testnetCommand()),
			in("This program", completionCommand(), manCommand(), versionCommand()),
		),
	}
}

// in puts commands under a heading of the help.
func in(category string, commands ...*cli.Command) []*cli.Command {
	for _, cmd := range commands {
		cmd.Category = category
	}
	return commands
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	if name := unknownFlag(c); name != "" {
		return misuse("there is no flag --%s; %s", name, didYouMean(name, "--", flagNames(c.Command), "see: "+commandName(c)+" --help"))
	}
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
		commands := c.App.Commands
		if c.Command != nil && len(c.Command.Subcommands) > 0 {
			commands = c.Command.Subcommands
		}
		var names []string
		for _, known := range commands {
			names = append(names, known.Name)
		}
		return misuse("there is no command %q; %s", name, didYouMean(name, "", names, "see: "+commandName(c)+" --help"))
	}
	if c.Bool("version") {
		return printVersion(c)
	}
	c.App.Writer = c.App.ErrWriter
	if err := cli.ShowSubcommandHelp(c); err != nil {
		return err
	}
	return misuse("say what to do")
}
