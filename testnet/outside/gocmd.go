package outside

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Go runs the real go command in an environment that holds nothing of the machine
// or its user but PATH, and the build cache, which is addressed by content.
type Go struct {
	dir   string // holds everything below
	env   []string
	start func(*exec.Cmd) error
}

// Project is the name of the directory, below that of Go, in which commands run.
const Project = "project"

// NewGo makes an environment below dir, an empty directory, whose module cache is
// empty too. Each setting is NAME=VALUE and wins over the defaults: no proxy, no
// checksum database, no toolchain but this one.
func NewGo(dir string, settings ...string) (*Go, error) {
	g := &Go{dir: dir, start: (*exec.Cmd).Start}
	for _, sub := range []string{"home", "tmp", Project} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			return nil, err
		}
	}
	buildCache, err := buildCache()
	if err != nil {
		return nil, err
	}
	g.env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + filepath.Join(dir, "home"),
		"TMPDIR=" + filepath.Join(dir, "tmp"),
		"GOENV=off", "GOWORK=off", "GOTOOLCHAIN=local", "GOTELEMETRY=off", "CGO_ENABLED=0",
		"GOPATH=" + filepath.Join(dir, "gopath"),
		"GOMODCACHE=" + filepath.Join(dir, "modcache"),
		"GOCACHE=" + buildCache,
		"GOPROXY=off", "GOSUMDB=off",
		// A module cache that can be written can be removed with its directory.
		"GOFLAGS=-modcacherw",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0",
	}, settings...)
	return g, nil
}

// buildCache is the machine's own: without it each test would compile the
// standard library anew.
func buildCache() (string, error) {
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOCACHE: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Set adds settings, each NAME=VALUE; they win over earlier ones.
func (g *Go) Set(settings ...string) { g.env = append(g.env, settings...) }

// At lets commands run at another place than here: start is (*exec.Cmd).Start there.
func (g *Go) At(start func(*exec.Cmd) error) { g.start = start }

// Dir is where commands run.
func (g *Go) Dir() string { return filepath.Join(g.dir, Project) }

// ModCache is the module cache, for a test to look into.
func (g *Go) ModCache() string {
	for _, kv := range slices.Backward(g.env) {
		if v, ok := strings.CutPrefix(kv, "GOMODCACHE="); ok {
			return v
		}
	}
	return ""
}

// Write writes a file of the project, at a path below Dir.
func (g *Go) Write(name, content string) error {
	path := filepath.Join(g.Dir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o666)
}

// CommandError is a failed go command, with all that it printed.
type CommandError struct {
	Args   []string
	Output string // stdout and stderr
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("go %s: %v\n%s", strings.Join(e.Args, " "), e.Err, e.Output)
}

func (e *CommandError) Unwrap() error { return e.Err }

// Run runs the go command and returns its standard output. The error is a
// *CommandError unless the command could not be started or ctx ended it.
func (g *Go) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = g.Dir(), g.env, 5*time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := g.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	all := stdout.String() + stderr.String()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return stdout.String(), fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), ctx.Err(), all)
	case errors.As(err, &exit):
		return stdout.String(), &CommandError{args, all, err}
	}
	return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
}
