package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
	"gopkg.in/yaml.v3"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// withConfig is the Before of every command: it gives the flags that neither the
// command line nor the environment set the values of the configuration file.
func withConfig(c *cli.Context) error {
	path, err := configPath(c)
	if err != nil || path == "" {
		return err
	}
	values, err := readConfig(path)
	if err != nil {
		return misuse("configuration file %s: %w", path, err)
	}
	c.App.Metadata[metaFile] = path
	for key, value := range values {
		if err := applyConfig(c, key, value); err != nil {
			return misuse("configuration file %s: %w", path, err)
		}
	}
	c.App.Metadata[metaConfig] = values
	return nil
}

// configPath is the file that --config names, else the user's own, else none.
func configPath(c *cli.Context) (string, error) {
	if path := c.String(flagConfig); path != "" {
		return path, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", nil // a user without a home has no file there
	}
	for _, name := range []string{"config.toml", "config.yaml"} {
		path := filepath.Join(dir, "meshproxy", name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("configuration file: %w", err)
		}
	}
	return "", nil
}

func readConfig(path string) (map[string]any, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller names the file
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("larger than %d bytes", maxConfig)
	}
	values := make(map[string]any)
	switch filepath.Ext(path) {
	case ".toml":
		err = toml.Unmarshal(text, &values)
	case ".yaml", ".yml":
		err = yaml.NewDecoder(bytes.NewReader(text)).Decode(&values)
		if errors.Is(err, io.EOF) {
			err = nil // nothing but comments
		}
	default:
		err = errors.New("its name must end in .toml, .yaml or .yml")
	}
	return values, err
}

// applyConfig sets one flag from the file. A key that is a setting of another
// command only is left alone, so that one file serves all of them.
func applyConfig(c *cli.Context, key string, value any) error {
	if err := checkKey(c.App, key); err != nil {
		return err
	}
	if f := findFlag(c.Command, key); f == nil || !isSetting(f) || c.IsSet(key) {
		return nil
	}
	text, err := configText(value)
	if err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	if err := c.Set(key, text); err != nil {
		return fmt.Errorf("key %q: invalid value %q: %w", key, text, err)
	}
	return nil
}

// isSetting reports whether a flag can be set beforehand, by a variable or by the file,
// and not only by whoever types a command.
func isSetting(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && len(d.GetEnvVars()) > 0
}

// checkKey reports whether a key of the file is a setting of any command.
func checkKey(app *cli.App, key string) error {
	known := configKeys(app)
	if slices.Contains(known, key) {
		return nil
	}
	return fmt.Errorf("unknown key %q; %s", key, didYouMean(key, "", known, "see: meshproxy config show"))
}

// configText writes a value of the file as a flag would be written.
func configText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			text, err := configText(item)
			if err != nil {
				return "", err
			}
			items[i] = text
		}
		return strings.Join(items, ","), nil
	default:
		return "", fmt.Errorf("want a string, a number, true, false or a list, not %T", value)
	}
}

// configKeys are the names of all settings of all commands, but for --config.
func configKeys(app *cli.App) []string {
	var keys []string
	var collect func([]*cli.Command)
	collect = func(commands []*cli.Command) {
		for _, cmd := range commands {
			for _, f := range cmd.Flags {
				if name := f.Names()[0]; isSetting(f) && name != flagConfig && !slices.Contains(keys, name) {
					keys = append(keys, name)
				}
			}
			collect(cmd.Subcommands)
		}
	}
	collect(app.Commands)
	slices.Sort(keys)
	return keys
}

func hasFlag(cmd *cli.Command, name string) bool {
	return slices.ContainsFunc(cmd.Flags, func(f cli.Flag) bool { return f.Names()[0] == name })
}

// alike is how like a known word must be to be meant, 1 being the same word.
const alike = 0.75

// didYouMean asks whether the known word most like the given one is meant, if it is
// like it at all; else it says what is given for that case. The prefix is what people
// type before the word.
func didYouMean(word, prefix string, known []string, otherwise string) string {
	near := nearest(word, known)
	if likeness(word, near) < alike {
		return otherwise
	}
	return "did you mean " + prefix + near + "?"
}

// nearest is the known word most like the given one.
func nearest(word string, known []string) string {
	return slices.MaxFunc(known, func(a, b string) int {
		return cmp.Compare(likeness(word, a), likeness(word, b))
	})
}

func likeness(a, b string) float64 {
	const boost, prefix = 0.7, 4 // the usual parameters
	return smetrics.JaroWinkler(a, b, boost, prefix)
}
