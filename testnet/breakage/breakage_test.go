package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// TestMutationsCompile holds that the broken code would run: all of it at once, since
// the compiler takes its time.
func TestMutationsCompile(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles half of the program")
	}
	list, err := mutations()
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	replace, packages := map[string]string{}, map[string]bool{}
	for _, m := range list {
		file := filepath.Join(top, m.file)
		text, err := os.ReadFile(cmp.Or(replace[file], file))
		if err != nil {
			t.Fatal(err)
		}
		replace[file] = filepath.Join(t.TempDir(), "broken.go")
		packages["./"+filepath.ToSlash(filepath.Dir(m.file))] = true
		if err := os.WriteFile(replace[file], bytes.Replace(text, m.old, m.new, 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	// Without -o, what several packages compile to is thrown away.
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-overlay=" + overlayFile}, slices.Sorted(maps.Keys(packages))...)...)
	cmd.Dir = top
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the broken code does not compile: %v\n%s", err, out)
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
