package testnet

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestPromisesAreShown holds that what docs/benchmarks.md names as showing a promise
// is there: each row of its table of promises names a test of a package, a target of
// make or a program at least, and all of them exist.
func TestPromisesAreShown(t *testing.T) {
	text, err := os.ReadFile("../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Promises\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if !ok {
		t.Fatal("docs/benchmarks.md has no section of promises")
	}
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.Contains(cells[1], "---") || strings.TrimSpace(cells[1]) == "promise" {
			continue
		}
		rows++
		shown := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1)
		if len(shown) == 0 || strings.TrimSpace(cells[3]) == "" || strings.TrimSpace(cells[4]) == "" {
			t.Errorf("nothing shows, or there is no result or date:%s", line)
		}
		for _, what := range shown {
			if err := exists(what[1]); err != "" {
				t.Errorf("promise%s: `%s`: %s", cells[1], what[1], err)
			}
		}
	}
	if rows < 40 {
		t.Errorf("%d promises, want all of them", rows)
	}
}

// exists says what is wrong with a command, or with a package and a test, or "".
func exists(what string) string {
	words := strings.Fields(what)
	if len(words) < 2 {
		return "want a package and a test, or a command"
	}
	switch {
	case words[0] == "make":
		makefile, err := os.ReadFile("../Makefile")
		if err != nil || !bytes.Contains(makefile, []byte("\n"+words[1]+":")) {
			return "no such target"
		}
		return ""
	case words[0] == "bin/meshproxy" && len(words) == 5 && words[1] == "testnet" && words[2] == "bench" && words[3] == "--only":
		sources, err := filepath.Glob("bench/*.go")
		if err != nil {
			return err.Error()
		}
		for _, f := range sources {
			if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte(strconv.Quote(words[4]))) {
				return ""
			}
		}
		return "no such measurement"
	case words[0] == "go" && words[1] == "run" && len(words) > 2:
		if _, err := os.Stat(filepath.Join("..", words[2], "main.go")); err != nil {
			return "no such program"
		}
		return ""
	}
	dir := filepath.Join("..", words[0])
	test, script, isScript := strings.Cut(words[1], "/")
	if isScript {
		found, err := filepath.Glob(filepath.Join(dir, "testdata", "*", script+".txtar"))
		if err != nil || len(found) == 0 {
			return "no such script"
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return err.Error()
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte("\nfunc "+test+"(t *testing.T)")) {
			return ""
		}
	}
	return "no such test"
}
