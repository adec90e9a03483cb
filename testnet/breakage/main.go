// Command breakage shows that the tests mean what they say: it breaks promises in the
// code, one after the other, and demands that the test which holds the promise fails.
// Each promise, what breaks it, and its test are a file below broken. The source tree
// is left as it is.
//
// It prints a table, as it stands in docs/benchmarks.md, and fails if any test passes
// on broken code, or fails on code that is whole.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	only := flag.String("only", "", "break this promise alone, by `name`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "breakage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) error {
	root, err := sourceRoot(ctx)
	if err != nil {
		return err
	}
	list, err := mutations()
	if err != nil {
		return err
	}
	wrong := 0
	fmt.Println("| promise | broken in | test | whole | broken |\n| --- | --- | --- | --- | --- |")
	for _, m := range list {
		if only != "" && m.name != only {
			continue
		}
		good, err := show(ctx, root, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if !good {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d promises are not held by their tests", wrong)
	}
	return nil
}

// show runs the test of one promise on the whole and on the broken code, and prints a
// row of the table.
func show(ctx context.Context, root string, m *mutation) (good bool, err error) {
	said := map[outcome]string{passed: "passes", failed: "fails", notBuilt: "does not run"}
	want := map[bool]outcome{false: passed, true: failed}
	row := []string{m.promise, "`" + m.file + "`", "`" + m.test + "`"}
	good = true
	for _, breakIt := range []bool{false, true} {
		got, out, err := m.run(ctx, root, breakIt)
		if err != nil {
			return false, fmt.Errorf("%w\n%s", err, out)
		}
		if got != want[breakIt] {
			good = false
			fmt.Fprintf(os.Stderr, "%s, broken %t:\n%s\n", m.name, breakIt, out)
		}
		row = append(row, said[got])
	}
	_, err = fmt.Println("| " + strings.Join(row, " | ") + " |")
	return good, err
}

// sourceRoot is where go.mod is.
func sourceRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", fmt.Errorf("go env GOMOD is %q: start it within the source tree", mod)
	}
	return filepath.Dir(mod), nil
}
