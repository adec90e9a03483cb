package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestFlagsFirst(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	for name, c := range map[string]struct{ line, want string }{
		"nothing":                    {"meshproxy", "meshproxy"},
		"no such command":            {"meshproxy srve x --y", "meshproxy srve x --y"},
		"help":                       {"meshproxy --help", "meshproxy --help"},
		"in order":                   {"meshproxy ls --json m", "meshproxy ls --json -- m"},
		"a flag at the end":          {"meshproxy ls m --json", "meshproxy ls --json -- m"},
		"with a value":               {"meshproxy export d --for go.mod --json", "meshproxy export --for go.mod --json -- d"},
		"with an equals sign":        {"meshproxy export d --for=go.mod x", "meshproxy export --for=go.mod -- d x"},
		"a value like a flag":        {"meshproxy invite --ttl -1h", "meshproxy invite --ttl -1h"},
		"an alias":                   {"meshproxy proof m@v -o f", "meshproxy proof -o f -- m@v"},
		"a flag without its value":   {"meshproxy export d --for", "meshproxy export --for -- d"},
		"standard input":             {"meshproxy check - --json", "meshproxy check --json -- -"},
		"after the end of the flags": {"meshproxy ls -- --json", "meshproxy ls -- --json"},
		"an unknown flag":            {"meshproxy ls m --jsn", "meshproxy ls --jsn -- m"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(flagsFirst(app, strings.Fields(c.line)), " "); got != c.want {
				t.Errorf("%q became %q, want %q", c.line, got, c.want)
			}
		})
	}
	if got := flagsFirst(app, nil); len(got) != 0 {
		t.Errorf("an empty line became %q", got)
	}
}

func TestParseArgs(t *testing.T) {
	for usage, want := range map[string]wantedArgs{
		"":              {},
		"FILE":          {names: []string{"FILE"}, least: 1},
		"[MODULE]":      {names: []string{"MODULE"}},
		"A B...":        {names: []string{"A", "B"}, least: 2, many: true},
		"A [GO.SUM...]": {names: []string{"A", "GO.SUM"}, least: 1, many: true},
	} {
		t.Run(usage, func(t *testing.T) {
			if got := parseArgs(usage); !slices.Equal(got.names, want.names) || got.least != want.least || got.many != want.many {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestCommands holds what every command owes its users.
func TestCommands(t *testing.T) {
	var walk func(name string, cmd *cli.Command)
	walk = func(name string, cmd *cli.Command) {
		for _, below := range cmd.Subcommands {
			walk(name+" "+below.Name, below)
		}
		t.Run(name, func(t *testing.T) {
			if len(cmd.Subcommands) == 0 && !strings.Contains(cmd.Description, "   "+name) {
				t.Errorf("the description has no example:\n%s", cmd.Description)
			}
			if cmd.Usage == "" || cmd.OnUsageError == nil || cmd.Action == nil || !cmd.HideHelpCommand {
				t.Errorf("it was not made by command or group: %+v", cmd)
			}
			for _, f := range cmd.Flags {
				if d, ok := f.(cli.DocGenerationFlag); !ok || d.GetUsage() == "" {
					t.Errorf("flag %s says nothing", f.Names()[0])
				}
			}
		})
	}
	for _, cmd := range newApp(io.Discard, io.Discard).Commands {
		walk("meshproxy "+cmd.Name, cmd)
	}
}
