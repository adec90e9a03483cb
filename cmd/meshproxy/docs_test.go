package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write the reference of settings anew")

// TestConfigurationReference holds docs/configuration.md to the flags of serve. To
// write it anew:
//
//	go test ./cmd/meshproxy -run TestConfigurationReference -update
func TestConfigurationReference(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Configuration

Nothing has to be configured. What is said comes from a flag of ` + "`meshproxy serve`" + `, else from the
environment, else from a file, else it is the default: ` + "`meshproxy config show`" + ` lists every setting
with its origin, ` + "`meshproxy config check`" + ` checks all of them without starting anything.

The file is TOML or YAML with the names below as keys, at the top level. It is the one that
` + "`--config`" + ` or MESHPROXY_CONFIG names, else ` + "`meshproxy/config.toml`" + ` or ` + "`config.yaml`" + ` in the user's
configuration directory. An unknown key is an error.

` + "```toml\noffice = \"berlin\"\nlisten = \"0.0.0.0:3000\"\nmax-size = \"50GB\"\n```" + `

On SIGHUP (` + "`systemctl reload meshproxy`" + `) the file is read again. ` + "`" + strings.Join(reloadable, "`, `") + "`" + ` change at once;
for the others the log says that they take effect at the next start. A file with a fault changes nothing.

This page is written from the code by ` + "`go test ./cmd/meshproxy -run TestConfigurationReference -update`" + `.
`)
	for _, group := range flagGroups(serveFlags()) {
		fmt.Fprintf(&b, "\n## %s\n\n| flag and key | variable | default | meaning |\n| --- | --- | --- | --- |\n", group.name)
		for _, f := range group.flags {
			d := f.(cli.DocGenerationFlag)
			placeholder, usage := unquoteUsage(d.GetUsage())
			fmt.Fprintf(&b, "| `--%s`%s | `%s` | %s | %s |\n", f.Names()[0], placeholder, strings.Join(d.GetEnvVars(), " "),
				defaultHint(f), strings.ReplaceAll(usage, "|", "\\|"))
		}
	}
	page := filepath.Join("..", "..", "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the code says (%v): go test ./cmd/meshproxy -run TestConfigurationReference -update", page, err)
	}
}

type flagGroup struct {
	name  string
	flags []cli.Flag
}

// flagGroups sorts flags into their categories, in order of name.
func flagGroups(flags []cli.Flag) []flagGroup {
	by := map[string][]cli.Flag{}
	var names []string
	for _, f := range flags {
		name := ""
		if in, ok := f.(cli.CategorizableFlag); ok {
			name = in.GetCategory()
		}
		if name == "" {
			name = "Where it keeps things"
		}
		if by[name] == nil {
			names = append(names, name)
		}
		by[name] = append(by[name], f)
	}
	slices.Sort(names)
	var groups []flagGroup
	for _, name := range names {
		groups = append(groups, flagGroup{name, by[name]})
	}
	return groups
}

// unquoteUsage takes the placeholder of a flag's value out of its usage.
func unquoteUsage(usage string) (placeholder, text string) {
	before, rest, ok := strings.Cut(usage, "`")
	name, after, closed := strings.Cut(rest, "`")
	if !ok || !closed {
		return "", usage
	}
	return " " + name, before + name + after
}

// TestDocumentedCommands runs what the pages tell their readers to type. A block
// whose fence is ```sh test is run as one shell script, on a machine with nothing
// but Go and git: each page has a home, an upstream and a database of its own, and
// its blocks run one after the other, in one shell.
func TestDocumentedCommands(t *testing.T) {
	archive, err := os.ReadFile("testdata/world.txtar")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ran := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if script := testedBlocks(text); script != "" {
			ran++
			script = freePorts(t, script)
			name := strings.TrimSuffix(filepath.Base(page), ".md")
			// The readers' upstream and database are what go env says; here it is the world's.
			body := "env GOPROXY=$UPSTREAM\nenv GOSUMDB=$SUMDB\nexec sh -eux page.sh\n\n-- page.sh --\n" + pageStart + script + pageEnd +
				"-- project/go.mod --\nmodule example.test/project\n\ngo 1.21\n\nrequire example.test/words v1.1.0\n"
			if err := os.WriteFile(filepath.Join(dir, name+".txtar"), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if ran == 0 {
		t.Fatal("no page has a block that is tested")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		Setup:               func(env *testscript.Env) error { return setUp(env, string(archive)) },
		RequireExplicitExec: true,
	})
}

// freePorts puts ports that are free here in the place of those that a page names.
func freePorts(t *testing.T, script string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strings.NewReplacer("127.0.0.1:3001", l.Addr().String(), "/ip4/0.0.0.0/tcp/4912", "/ip4/127.0.0.1/tcp/0").Replace(script)
}

// pageStart lets a page's commands find a free port, and wait for a node that they
// have just started, which people do by looking.
const pageStart = `
export MESHPROXY_LISTEN=127.0.0.1:0 MESHPROXY_P2P=/ip4/127.0.0.1/tcp/0 MESHPROXY_NO_LAN=true GOENV=$HOME/goenv
upstream=$GOPROXY sums=$GOSUMDB
unset GOPROXY GOSUMDB GOFLAGS
go env -w "GOPROXY=$upstream" "GOSUMDB=$sums" GOFLAGS=-modcacherw
pids=
trap 'kill $pids; wait' EXIT
ready() { n=0; until meshproxy status "$@" --json 2>/dev/null | grep -q '"running": true'; do n=$((n+1)); [ $n -lt 600 ]; sleep 0.1; done; }
cd project
`

const pageEnd = "\n"

// testedBlocks are the shell blocks of a page that are marked as tested.
func testedBlocks(page []byte) string {
	var script strings.Builder
	inside := false
	lines := bufio.NewReader(bytes.NewReader(page))
	for {
		line, err := lines.ReadString('\n')
		switch fence := strings.TrimSpace(line); {
		case fence == "```sh test":
			inside = true
		case fence == "```":
			inside = false
		case inside:
			script.WriteString(line)
			if strings.HasPrefix(line, "meshproxy serve") || strings.HasPrefix(line, "meshproxy join") {
				data := ""
				for i, word := range strings.Fields(line) {
					if word == "--data" {
						data = " --data " + strings.Fields(line)[i+1]
					}
				}
				script.WriteString("pids=\"$pids $!\"\nready" + data + "\n")
			}
		}
		if err == io.EOF {
			return script.String()
		}
	}
}
