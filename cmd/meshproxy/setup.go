package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

// goVar is a setting of the go command that setup writes.
type goVar struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Before string `json:"before,omitempty"` // empty: it was the go command's default
}

// setupDone is what setup has done for this user, as it is remembered for --undo.
type setupDone struct {
	Vars []goVar `json:"vars"`
}

func setupCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "setup",
		Usage: "point the go command of this user at the running node",
		Description: `Shows what it does, does it with go env -w, and remembers what was there before.

Examples:

   meshproxy setup --dry-run
   meshproxy setup
   meshproxy setup --undo`,
		Flags: atFlags(jsonFlag(),
			&cli.BoolFlag{Name: "undo", Usage: "put back what was there before"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only show what would be done"},
			&cli.StringFlag{Name: "nosumdb", EnvVars: env("nosumdb"), Usage: "`PATTERNS` of modules that no checksum database knows, for GONOSUMDB"}),
	}, func(c *cli.Context) error {
		if c.Bool("undo") {
			return undoSetup(c)
		}
		return setUpGo(c)
	})
}

func setUpGo(c *cli.Context) error {
	url, err := nodeURL(c)
	if err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	want := []goVar{{Name: "GOPROXY", Value: url}}
	if patterns := c.String("nosumdb"); patterns != "" {
		want = append(want, goVar{Name: "GONOSUMDB", Value: patterns})
	}
	var done setupDone
	for _, v := range want {
		if now, err := goSetting(c.Context, v.Name); err != nil {
			return fmt.Errorf("setup: %w", err)
		} else if now == v.Value {
			continue
		} else if builtin, err := goSetting(c.Context, v.Name, "GOENV=off"); err != nil {
			return fmt.Errorf("setup: %w", err)
		} else if now != builtin {
			v.Before = now
		}
		done.Vars = append(done.Vars, v)
	}
	if len(done.Vars) > 0 && !c.Bool("dry-run") {
		if err := rememberSetup(done); err != nil {
			return fmt.Errorf("setup: %w", err)
		}
	}
	return writeGo(c, done.Vars, "the go command uses this node already")
}

// writeGo shows what is to be written, and writes it. Those without a value are put
// back to the go command's default.
func writeGo(c *cli.Context, vars []goVar, nothing string) error {
	var lines []string
	for _, v := range vars {
		args := []string{"env", "-w", v.Name + "=" + v.Value}
		if v.Value == "" {
			args = []string{"env", "-u", v.Name}
		}
		line := "go " + strings.Join(args, " ")
		if os.Getenv(v.Name) != "" {
			line += "   # in this shell the variable " + v.Name + " outranks it"
		}
		lines = append(lines, line)
		if c.Bool("dry-run") {
			continue
		}
		if _, err := runGo(c.Context, nil, args...); err != nil {
			return err
		}
	}
	if len(lines) == 0 {
		lines = []string{nothing}
	}
	return reportTo(c, false, vars, strings.Join(lines, "\n"))
}

// undoSetup puts back what setup changed, but for what was changed again since.
func undoSetup(c *cli.Context) error {
	path, err := setupFile()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("setup: there is nothing to undo")
	}
	var done setupDone
	if err == nil {
		err = json.Unmarshal(data, &done)
	}
	if err != nil {
		return fmt.Errorf("setup: %s: %w", path, err)
	}
	var back []goVar
	for _, v := range done.Vars {
		now, err := goSetting(c.Context, v.Name)
		if err != nil {
			return fmt.Errorf("setup: %w", err)
		}
		if now == v.Value {
			back = append(back, goVar{Name: v.Name, Value: v.Before})
		} else {
			fmt.Fprintf(c.App.ErrWriter, "%s is %s now, which is not from setup: it stays\n", v.Name, now)
		}
	}
	if err := writeGo(c, back, "nothing is left to undo"); err != nil || c.Bool("dry-run") {
		return err
	}
	return os.Remove(path)
}

// nodeURL is where the node of the data directory serves.
func nodeURL(c *cli.Context) (string, error) {
	running, err := node.Dial(c.Context, c.String("data"))
	if err != nil {
		return "", fmt.Errorf("%w; start it first: meshproxy serve", err)
	}
	defer running.Close()
	st, err := running.Status(c.Context)
	if err != nil {
		return "", err
	}
	return st.URL, nil
}

// rememberSetup keeps what was there before. What an earlier setup found stays.
func rememberSetup(done setupDone) error {
	path, err := setupFile()
	if err != nil {
		return err
	}
	var before setupDone
	if data, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(data, &before); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for i, v := range done.Vars {
		if j := slices.IndexFunc(before.Vars, func(b goVar) bool { return b.Name == v.Name && b.Value == v.Before }); j >= 0 {
			done.Vars[i].Before = before.Vars[j].Before
		}
	}
	data, err := json.MarshalIndent(done, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o600)
}

func setupFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("setup: %w", err)
	}
	return filepath.Join(dir, "meshproxy", "setup.json"), nil
}

// goSetting is a setting as the go command's file and defaults have it, whatever
// this shell's variables say.
func goSetting(ctx context.Context, name string, extra ...string) (string, error) {
	out, err := runGo(ctx, append([]string{name + "="}, extra...), "env", name)
	return strings.TrimSpace(string(out)), err
}

// runGo runs the go command outside of any module.
func runGo(ctx context.Context, env []string, args ...string) ([]byte, error) {
	path, err := exec.LookPath("go")
	if err != nil {
		return nil, errNoGo
	}
	ctx, cancel := context.WithTimeout(ctx, goEnvTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = os.TempDir()
	cmd.Env = append(append(os.Environ(), "GOTOOLCHAIN=local", "GOWORK=off"), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
