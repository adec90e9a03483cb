package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

// command completes what all commands have in common: the configuration file fills
// in what flags and environment leave open, and the arguments are those that
// ArgsUsage names: FILE is wanted, [FILE] may be left out, FILE... are one or more.
// A Before of its own comes after that, and looks at what was typed before anything
// is done.
func command(cmd *cli.Command, do cli.ActionFunc) *cli.Command {
	wanted, check := parseArgs(cmd.ArgsUsage), cmd.Before
	cmd.OnUsageError = onUsageError
	cmd.HideHelpCommand = true
	cmd.Before = func(c *cli.Context) error {
		if hasFlag(cmd, flagConfig) {
			if err := withConfig(c); err != nil {
				return err
			}
		}
		if err := wanted.check(c); err != nil || check == nil {
			return err
		}
		return check(c)
	}
	cmd.Action = do
	return cmd
}

// askCommand is a command that asks the office of a data directory: the node that
// runs on it, or its store when none does.
func askCommand(cmd *cli.Command, do func(*cli.Context, node.Control) error) *cli.Command {
	cmd.Flags = atFlags(cmd.Flags...)
	return command(cmd, func(c *cli.Context) error {
		return withControl(c, func(ctl node.Control) error { return do(c, ctl) })
	})
}

// showCommand is an askCommand that asks for one thing and prints it: as a document
// with --json, else as print does.
func showCommand[T any](cmd *cli.Command, ask func(*cli.Context, node.Control) (T, error), print func(*cli.Context, T) error) *cli.Command {
	cmd.Flags = append([]cli.Flag{jsonFlag()}, cmd.Flags...)
	return askCommand(cmd, func(c *cli.Context, ctl node.Control) error {
		v, err := ask(c, ctl)
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Name, err)
		}
		return show(c, v, print)
	})
}

// doCommand is an askCommand that has the office do something, which leaves nothing
// to print.
func doCommand(cmd *cli.Command, do func(*cli.Context, node.Control) error) *cli.Command {
	return askCommand(cmd, func(c *cli.Context, ctl node.Control) error {
		if err := do(c, ctl); err != nil {
			return fmt.Errorf("%s: %w", cmd.Name, err)
		}
		return nil
	})
}

// group is a command that only leads to others: meshproxy config show.
func group(cmd *cli.Command, below ...*cli.Command) *cli.Command {
	cmd.Subcommands = below
	cmd.UsageText = "meshproxy " + cmd.Name + " COMMAND [options] [arguments]"
	cmd.OnUsageError = onUsageError
	cmd.HideHelpCommand = true
	cmd.Action = noCommand
	return cmd
}

// show prints v as JSON if that was asked for, else as print does.
func show[T any](c *cli.Context, v T, print func(*cli.Context, T) error) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	return print(c, v)
}

// orSay prints a list, or in words that there is nothing in it.
func orSay[T any](print func(*cli.Context, []T) error, none string) func(*cli.Context, []T) error {
	return func(c *cli.Context, list []T) error {
		if len(list) == 0 {
			return say(c, none)
		}
		return print(c, list)
	}
}

// say prints a sentence for people.
func say(c *cli.Context, text string) error {
	_, err := fmt.Fprintln(c.App.Writer, text)
	return err
}

// showLines prints a list one to a line.
func showLines(c *cli.Context, list []string) error {
	for _, line := range list {
		if _, err := fmt.Fprintln(c.App.Writer, line); err != nil {
			return err
		}
	}
	return nil
}

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

// wantedArgs are the arguments of a command, as its ArgsUsage has them.
type wantedArgs struct {
	names []string
	least int
	many  bool // the last one may stand again and again
}

// parseArgs reads an ArgsUsage.
func parseArgs(usage string) wantedArgs {
	var w wantedArgs
	for _, word := range strings.Fields(usage) {
		name, optional := strings.CutPrefix(word, "[")
		name = strings.TrimSuffix(name, "]")
		name, w.many = strings.CutSuffix(name, "...")
		w.names = append(w.names, name)
		if !optional {
			w.least++
		}
	}
	return w
}

func (w wantedArgs) check(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) < w.least {
		return misuse("%s is missing; see: %s --help", w.names[len(args)], commandName(c))
	}
	if len(args) > len(w.names) && !w.many {
		return misuse("unexpected argument %q; see: %s --help", args[len(w.names)], commandName(c))
	}
	return nil
}

// flagsFirst puts the flags of a command line before its arguments, where the
// flag package wants them: meshproxy gc DIR --json. What follows -- stays an
// argument.
func flagsFirst(app *cli.App, line []string) []string {
	if len(line) == 0 || line[len(line)-1] == completeFlag {
		return line
	}
	done, rest := line[:1:1], line[1:]
	commands := app.Commands
	var cmd *cli.Command
	for len(rest) > 0 {
		next := findCommand(commands, rest[0])
		if next == nil {
			break
		}
		done, rest = append(done, rest[0]), rest[1:]
		cmd, commands = next, next.Subcommands
	}
	if cmd == nil {
		return line
	}
	flags, args := split(cmd, rest)
	done = append(done, flags...)
	if len(args) > 0 {
		done = append(done, "--")
	}
	return append(done, args...)
}

// split parts what follows a command into flags, with their values, and arguments.
func split(cmd *cli.Command, words []string) (flags, args []string) {
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch {
		case word == "--":
			return flags, append(args, words...)
		case len(word) < 2 || word[0] != '-':
			args = append(args, word)
		case takesValue(cmd, word) && len(words) > 0:
			flags = append(flags, word, words[0])
			words = words[1:]
		default:
			flags = append(flags, word)
		}
	}
	return flags, args
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, cmd := range commands {
		if cmd.HasName(name) {
			return cmd
		}
	}
	return nil
}

// takesValue reports whether the word after this flag is its value.
func takesValue(cmd *cli.Command, word string) bool {
	name := strings.TrimLeft(word, "-")
	if strings.Contains(name, "=") {
		return false
	}
	v, ok := findFlag(cmd, name).(cli.DocGenerationFlag)
	return ok && v.TakesValue()
}

// findFlag is the flag of a command that has this name or alias, nil if there is none.
func findFlag(cmd *cli.Command, name string) cli.Flag {
	i := slices.IndexFunc(cmd.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	if i < 0 {
		return nil
	}
	return cmd.Flags[i]
}

// unknownFlag is the first flag on the command line that the command does not have.
func unknownFlag(c *cli.Context) string {
	line, _ := c.App.Metadata[metaLine].([]string)
	value := true // the program's own name is no flag
	for _, word := range line {
		switch name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "="); {
		case value:
			value = false
		case word == "--":
			return ""
		case len(word) < 2 || word[0] != '-':
		case findFlag(c.Command, name) == nil && !slices.Contains(cli.HelpFlag.Names(), name):
			return name
		default:
			value = takesValue(c.Command, word)
		}
	}
	return ""
}

// flagNames are the names of a command's flags that people would type.
func flagNames(cmd *cli.Command) []string {
	names := []string{cli.HelpFlag.Names()[0]}
	for _, f := range cmd.Flags {
		names = append(names, f.Names()[0])
	}
	return names
}
