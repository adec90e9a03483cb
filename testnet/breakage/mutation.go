package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// broken holds the mutations, one a file: in its comment a line of what is promised,
// and lines "file: PATH" and "test: PACKAGE NAME"; then the text that is in the file
// now, and the text that breaks the promise.
//
//go:embed broken/*.txtar
var broken embed.FS

// mutation is a change of the code that breaks a promise, and the test that says so.
type mutation struct {
	name, promise, file, pkg, test string
	old, new                       []byte
}

// mutations returns all, in order of their names.
func mutations() (list []*mutation, err error) {
	paths, err := fs.Glob(broken, "broken/*.txtar")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := broken.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		m.name = strings.TrimSuffix(filepath.Base(path), ".txtar")
		list = append(list, m)
	}
	return list, nil
}

func parse(text []byte) (*mutation, error) {
	a, m := txtar.Parse(text), new(mutation)
	for line := range strings.Lines(string(a.Comment)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case ok && key == "file":
			m.file = value
		case ok && key == "test":
			m.pkg, m.test, _ = strings.Cut(value, " ")
		default:
			m.promise += strings.TrimSpace(line)
		}
	}
	if m.promise == "" || m.file == "" || m.test == "" || len(a.Files) != 2 || a.Files[0].Name != "old" || a.Files[1].Name != "new" {
		return nil, errors.New("want a promise, file: and test: lines, and the sections old and new")
	}
	m.old, m.new = a.Files[0].Data, a.Files[1].Data
	return m, nil
}

// apply returns the broken file; root is the top of the source tree.
func (m *mutation) apply(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, m.old); n != 1 {
		return nil, fmt.Errorf("%s: the text to break is there %d times, want once: bring testnet/breakage/broken/%s.txtar up to date", m.file, n, m.name)
	}
	return bytes.Replace(text, m.old, m.new, 1), nil
}

// outcome is what a test made of the code.
type outcome int

const (
	passed outcome = iota
	failed
	notBuilt
)

// verdict lines of go test: only these tell a failure from a package that does not
// build, or a test that is not there.
var (
	failLine = regexp.MustCompile(`(?m)^\s*--- FAIL: |^panic: `)
	passLine = regexp.MustCompile(`(?m)^\s*--- PASS: `)
)

// run runs the test of a mutation, against the broken code if it is to be broken. No
// file of the tree is changed: the compiler is told of another one in its place.
func (m *mutation) run(ctx context.Context, root string, breakIt bool) (outcome, []byte, error) {
	args := []string{"test", "-count=1", "-v", "-timeout=10m", "-run=" + pattern(m.test)}
	if breakIt {
		dir, err := os.MkdirTemp("", "meshproxy-breakage-")
		if err != nil {
			return 0, nil, err
		}
		defer os.RemoveAll(dir)
		overlay, err := m.overlay(root, dir)
		if err != nil {
			return 0, nil, err
		}
		args = append(args, "-overlay="+overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, m.pkg)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, out, ctx.Err()
	case err == nil && passLine.Match(out):
		return passed, out, nil
	case errors.As(err, &exit) && failLine.Match(out):
		return failed, out, nil
	case err != nil && !errors.As(err, &exit):
		return 0, out, err
	}
	return notBuilt, out, nil
}

// overlay writes the broken file and the list of replacements that go test reads.
func (m *mutation) overlay(root, dir string) (string, error) {
	text, err := m.apply(root)
	if err != nil {
		return "", err
	}
	instead, list := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file): instead}})
	if err != nil {
		return "", err
	}
	return list, errors.Join(os.WriteFile(instead, text, 0o600), os.WriteFile(list, replace, 0o600))
}

// pattern is what -run wants for one test.
func pattern(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}
