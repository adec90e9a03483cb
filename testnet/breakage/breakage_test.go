package main

import (
	"bytes"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// TestMutations holds that every promise can still be broken: the text is where it
// was, what takes its place is Go, and the test that must notice is there.
func TestMutations(t *testing.T) {
	list, err := mutations()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 10 {
		t.Errorf("%d promises are broken, want ten at least", len(list))
	}
	for _, m := range list {
		t.Run(m.name, func(t *testing.T) {
			text, err := m.apply(root)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.ParseFile(token.NewFileSet(), m.file, text, parser.SkipObjectResolution); err != nil {
				t.Error(err)
			}
			if !hasTest(t, filepath.Join(root, m.pkg), m.test) {
				t.Errorf("%s has no test %s", m.pkg, m.test)
			}
		})
	}
}

// hasTest looks for the function of a test, and for the script if it is one of those.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	name, script, isScript := strings.Cut(name, "/")
	if isScript {
		for _, scripts := range []string{"testdata/scenario", "testdata/script"} {
			if _, err := os.Stat(filepath.Join(dir, scripts, script+".txtar")); err == nil {
				isScript = false
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("\nfunc "+name+"(t *testing.T)")) {
			return !isScript
		}
	}
	return false
}

func TestMutationsThatAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":        "",
		"no promise":     "file: a.go\ntest: ./a TestA\n-- old --\na\n-- new --\nb\n",
		"no file":        "It holds.\ntest: ./a TestA\n-- old --\na\n-- new --\nb\n",
		"no test":        "It holds.\nfile: a.go\ntest: ./a\n-- old --\na\n-- new --\nb\n",
		"nothing broken": "It holds.\nfile: a.go\ntest: ./a TestA\n-- old --\na\n",
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := parse([]byte(text)); err == nil {
				t.Errorf("taken for %+v", m)
			}
		})
	}
}
