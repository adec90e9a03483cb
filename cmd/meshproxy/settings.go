package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Keys of what the commands of one run share (cli.App.Metadata).
const (
	metaLine   = "line"   // []string: the command line, flags first
	metaFile   = "file"   // string: the configuration file that was read
	metaConfig = "config" // map[string]any: what is in it
	metaLevel  = "level"  // *slog.LevelVar: where the log begins
)

// Origins of a setting, the first that says something counts.
const (
	fromFlag    = "flag"
	fromEnv     = "environment"
	fromFile    = "file"
	fromDefault = "default"
)

// configured is what the configuration file says.
func configured(c *cli.Context) map[string]any {
	values, _ := c.App.Metadata[metaConfig].(map[string]any)
	return values
}

// originOf says where the value of a flag comes from.
func originOf(c *cli.Context, name string) string {
	line, _ := c.App.Metadata[metaLine].([]string)
	for _, word := range line {
		if word == "--" {
			break
		}
		flag, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if strings.HasPrefix(word, "-") && flag == name {
			return fromFlag
		}
	}
	for _, variable := range env(name) {
		if os.Getenv(variable) != "" {
			return fromEnv
		}
	}
	if _, ok := configured(c)[name]; ok {
		return fromFile
	}
	return fromDefault
}

// setting is a flag with its value, and where that comes from.
type setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // flag, environment, file or default
	Where  string `json:"where,omitempty"`
}

// settings are those of serve, sorted by key.
func settings(c *cli.Context) []setting {
	list := []setting{}
	for _, f := range c.Command.Flags {
		name := f.Names()[0]
		if name == "json" || name == "help" || name == flagConfig {
			continue
		}
		s := setting{Key: name, Value: valueText(c, name), Origin: originOf(c, name)}
		switch s.Origin {
		case fromFlag:
			s.Where = "--" + name
		case fromEnv:
			s.Where = env(name)[0]
		case fromFile:
			s.Where, _ = c.App.Metadata[metaFile].(string)
		case fromDefault:
			if s.Value == "" {
				s.Where = defaultHint(f)
			}
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b setting) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// valueText writes a flag's value as it is written on the command line.
func valueText(c *cli.Context, name string) string {
	if v, ok := c.Value(name).(cli.StringSlice); ok {
		return strings.Join(v.Value(), ",")
	}
	return fmt.Sprint(c.Value(name))
}

// defaultText is the value of a flag that nobody has set.
func defaultText(cmd *cli.Command, name string) string {
	for _, f := range cmd.Flags {
		if f.Names()[0] != name {
			continue
		}
		switch f := f.(type) {
		case *cli.StringFlag:
			return f.Value
		case *cli.DurationFlag:
			return f.Value.String()
		}
	}
	return ""
}

// defaultHint says in words what a flag without a value stands for.
func defaultHint(f cli.Flag) string {
	if d, ok := f.(cli.DocGenerationFlag); ok {
		return strings.Trim(d.GetDefaultText(), `"`)
	}
	return ""
}

func configCommand() *cli.Command {
	return group(&cli.Command{
		Name:  "config",
		Usage: "show or check the settings of this office",
	}, configShowCommand(), configCheckCommand())
}

func configShowCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "show",
		Usage: "list every setting of serve, and where its value comes from",
		Description: `A flag outranks a variable, a variable the configuration file, the file a default.

Examples:

   meshproxy config show
   meshproxy config show --config /etc/meshproxy/config.toml --json`,
		Flags: serveFlags(jsonFlag()),
	}, func(c *cli.Context) error { return show(c, settings(c), printSettings) })
}

func printSettings(c *cli.Context, list []setting) error {
	t := newTable(c.App.Writer, "key", "value", "origin", "")
	for _, s := range list {
		t.AppendRow([]any{s.Key, s.Value, s.Origin, s.Where})
	}
	return printTable(c.App.Writer, t)
}

func configCheckCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "check",
		Usage: "check the configuration file and all settings, without starting anything",
		Description: `Exit status 2 if something cannot be meant: an unknown key, a value of the wrong kind.

Examples:

   meshproxy config check
   meshproxy config check --config /etc/meshproxy/config.toml`,
		Flags: serveFlags(jsonFlag()),
	}, checkConfig)
}

func checkConfig(c *cli.Context) error {
	if _, err := nodeConfig(c); err != nil {
		return err
	}
	path, _ := c.App.Metadata[metaFile].(string)
	keys := len(configured(c))
	text := "no configuration file; all settings are good"
	if path != "" {
		text = fmt.Sprintf("%s: %d keys, all settings are good", path, keys)
	}
	return reportTo(c, false, map[string]any{"file": path, "keys": keys}, text)
}
