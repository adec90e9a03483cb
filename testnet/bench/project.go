package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

// readProject returns the go.mod that is downloaded: that of a directory, or the
// one that a module of the world has, so that anybody can measure the same large
// project with nothing but its name.
func (b *bench) readProject(ctx context.Context) (string, error) {
	path, version, isModule := strings.Cut(b.Project, "@")
	if !isModule {
		text, err := os.ReadFile(filepath.Join(b.Project, "go.mod"))
		if err != nil {
			return "", fmt.Errorf("which modules to download: %w; say --project DIR or --project MODULE@VERSION", err)
		}
		return withoutLocal("go.mod", text)
	}
	if err := module.Check(path, version); err != nil {
		return "", err
	}
	g, err := outside.NewGo(b.treeDir(), machineSettings()...)
	if err != nil {
		return "", err
	}
	out, err := g.Run(ctx, "mod", "download", "-json", b.Project)
	if err != nil {
		return "", err
	}
	var m struct{ GoMod string }
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		return "", fmt.Errorf("go mod download -json %s: %w", b.Project, err)
	}
	text, err := os.ReadFile(m.GoMod)
	if err != nil {
		return "", err
	}
	return withoutLocal(m.GoMod, text)
}

// withoutLocal drops from a go.mod what is not to be had from a proxy: replacements
// by directories.
func withoutLocal(name string, text []byte) (string, error) {
	f, err := modfile.Parse(name, text, nil)
	if err != nil {
		return "", err
	}
	for _, r := range f.Replace {
		if r.New.Version == "" {
			if err := f.DropReplace(r.Old.Path, r.Old.Version); err != nil {
				return "", err
			}
		}
	}
	f.Cleanup()
	out, err := f.Format()
	return string(out), err
}

// treeDir holds the modules of one project: all that is in it is downloaded.
func (b *bench) treeDir() string {
	if !strings.Contains(b.Project, "@") {
		return b.Config.Tree
	}
	return filepath.Join(b.Config.Tree, "of", strings.NewReplacer("/", "+", "@", "+").Replace(b.Project))
}

// machineSettings let the tree be filled the way the machine gets its modules.
func machineSettings() []string {
	var settings []string
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE"} {
		if out, err := exec.Command("go", "env", name).Output(); err == nil {
			settings = append(settings, name+"="+strings.TrimSpace(string(out)))
		}
	}
	return settings
}
