package testnet

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// sums is the name of the checksum database of these tests.
const sums = "sums.test"

// surroundings are an upstream, with a checksum database below it, and a net.
type surroundings struct {
	*Net
	world    *outside.World
	db       *outside.Database
	upstream *outside.Server
}

// surround makes surroundings of a world.
func surround(t *testing.T, w *outside.World) *surroundings {
	t.Helper()
	if err := w.Pack(); err != nil {
		t.Fatal(err)
	}
	db, err := w.Database(sums)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Fill(t.Context(), 300); err != nil {
		t.Fatal(err)
	}
	up, err := outside.NewServer(outside.Proxy(w, db))
	if err != nil {
		t.Fatal(err)
	}
	s := &surroundings{New(t), w, db, up}
	t.Cleanup(up.Stop) // before the net: hung fetches end with the upstream
	return s
}

func archiveWorld(t *testing.T) *outside.World {
	t.Helper()
	text, err := os.ReadFile("testdata/world.txtar")
	if err != nil {
		t.Fatal(err)
	}
	w := new(outside.World)
	if err := w.AddArchive(string(text)); err != nil {
		t.Fatal(err)
	}
	return w
}

// online is the configuration of an office with the upstream, offline of one
// without; both check modules with the database.
func (s *surroundings) online() node.Config {
	return node.Config{Upstream: s.upstream.URL(), SumDB: s.db.Key()}
}

func (s *surroundings) offline() node.Config {
	return node.Config{Upstream: "off", SumDB: s.db.Key()}
}

// client makes a go command with an empty module cache that uses the office, and
// trusts nothing but the database.
func (s *surroundings) client(t *testing.T, o *Office, settings ...string) *outside.Go {
	t.Helper()
	g, err := outside.NewGo(t.TempDir(), append([]string{"GOPROXY=" + o.URL(), "GOSUMDB=" + s.db.Key()}, settings...)...)
	if err != nil {
		t.Fatal(err)
	}
	write(t, g, "go.mod", "module example.test/project\n\ngo 1.21\n")
	return g
}

func write(t *testing.T, g *outside.Go, name, content string) {
	t.Helper()
	if err := g.Write(name, content); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, g *outside.Go, args ...string) string {
	t.Helper()
	out, err := g.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// fails runs a go command that must fail, and returns all that it printed.
func fails(t *testing.T, g *outside.Go, args ...string) string {
	t.Helper()
	out, err := g.Run(t.Context(), args...)
	var failed *outside.CommandError
	if !errors.As(err, &failed) {
		t.Fatalf("go %s: want a failure, got %v and %q", strings.Join(args, " "), err, out)
	}
	return failed.Output
}

// program is a main package that says what it was built from.
const program = `package main

import (
	letters "example.test/Capital/Letters"
	"example.test/greet"
	"example.test/major/v3"
	"example.test/old"
	pinned "gopkg.in/pinned.v2"
)

func main() {
	println(letters.A, greet.Hello(), major.Hello(), old.Age, pinned.Pin)
}
`

// toolchain is a Go release that nobody will make.
const toolchain = "go1.9999.1"

// addToolchain adds it to a world: a script that says what it is. The go command
// downloads toolchains as modules, and verifies them whatever the settings.
func addToolchain(t *testing.T, w *outside.World) {
	t.Helper()
	m := module.Version{Path: "golang.org/toolchain", Version: "v0.0.1-" + toolchain + "." + runtime.GOOS + "-" + runtime.GOARCH}
	_, err := w.AddFiles(m, map[string][]byte{
		"bin/gofmt":            []byte("#!/bin/sh\n"),
		"bin/go":               []byte("#!/bin/sh\necho this is " + toolchain + "\n"),
		"lib/readme":           []byte("the go command looks into lib and pkg/tool\n"),
		"pkg/tool/here/nobody": []byte("calls this\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// goTasks are what people do with a go command. Each runs in a fresh module, with
// an empty module cache, the checksum database on.
var goTasks = map[string]func(t *testing.T, g *outside.Go){
	"build with everything found by itself": func(t *testing.T, g *outside.Go) {
		g.Set("GOFLAGS=-modcacherw -mod=mod")
		write(t, g, "main.go", program)
		bin := filepath.Join(t.TempDir(), "main")
		run(t, g, "mod", "tidy")
		run(t, g, "build", "-o", bin, ".")
		run(t, g, "mod", "verify")
		out, err := exec.CommandContext(t.Context(), bin).CombinedOutput()
		want := "CAPITAL greet v1.1.0 major with greet v1.1.0 v2.5, from before modules pinned v2\n"
		if err != nil || string(out) != want {
			t.Errorf("%v: built %q, want %q", err, out, want)
		}
	},
	"versions": func(t *testing.T, g *outside.Go) {
		got := run(t, g, "list", "-m", "-versions", "example.test/greet")
		if want := "example.test/greet v1.0.0 v1.1.0 v1.2.0-rc.1"; got != want {
			t.Errorf("versions %q, want %q", got, want)
		}
	},
	"incompatible versions": func(t *testing.T, g *outside.Go) {
		got := run(t, g, "list", "-m", "-versions", "example.test/old")
		if want := "example.test/old v1.0.0 v2.5.0+incompatible"; got != want {
			t.Errorf("versions %q, want %q", got, want)
		}
	},
	"upgrade": func(t *testing.T, g *outside.Go) {
		write(t, g, "p.go", "package p\n\nimport _ \"example.test/greet\"\n")
		run(t, g, "get", "example.test/greet@v1.0.0")
		run(t, g, "get", "-u", "./...")
		if got := run(t, g, "list", "-m", "-f", "{{.Version}}", "example.test/greet"); got != "v1.1.0" {
			t.Errorf("upgraded to %s", got)
		}
		if got := run(t, g, "list", "-m", "-u", "-f", "{{.Update}}", "example.test/greet"); got != "<nil>" {
			t.Errorf("an update after the upgrade: %s", got)
		}
	},
	"branch": func(t *testing.T, g *outside.Go) {
		run(t, g, "get", "example.test/greet@main")
		if got := run(t, g, "list", "-m", "-f", "{{.Version}}", "example.test/greet"); got != "v1.1.1-0.20240302000000-0123456789ab" {
			t.Errorf("main is %s", got)
		}
	},
	"commit": func(t *testing.T, g *outside.Go) {
		if got := run(t, g, "list", "-m", "-f", "{{.Version}}", "example.test/greet@0123456789ab"); got != "v1.1.1-0.20240302000000-0123456789ab" {
			t.Errorf("the commit is %s", got)
		}
	},
	"module without tags": func(t *testing.T, g *outside.Go) {
		run(t, g, "get", "example.test/untagged")
		if got := run(t, g, "list", "-m", "-f", "{{.Version}}", "example.test/untagged"); got != "v0.0.0-20240303000000-abcdef012345" {
			t.Errorf("latest is %s", got)
		}
	},
	"retracted": func(t *testing.T, g *outside.Go) {
		run(t, g, "get", "example.test/hasty")
		if got := run(t, g, "list", "-m", "-f", "{{.Version}}", "example.test/hasty"); got != "v1.0.0" {
			t.Errorf("latest that is not retracted is %s", got)
		}
		got := run(t, g, "list", "-m", "-retracted", "-f", "{{.Retracted}}", "example.test/hasty@v1.0.1")
		if got != "[published in haste]" {
			t.Errorf("v1.0.1 is retracted because %q", got)
		}
	},
	"toolchain": func(t *testing.T, g *outside.Go) {
		g.Set("GOTOOLCHAIN=" + toolchain)
		if got := run(t, g, "version"); got != "this is "+toolchain {
			t.Errorf("the toolchain that was downloaded says %q", got)
		}
	},
	"module that is not": func(t *testing.T, g *outside.Go) {
		if out := fails(t, g, "get", "example.test/nobody/made/this"); !strings.Contains(out, "404") && !strings.Contains(out, "not found") {
			t.Errorf("a missing module is not reported as such:\n%s", out)
		}
	},
}

// TestGoCommand gives each task to the office that fetches, to one that joined it
// and has no upstream, and to that one again with the other office and the whole
// outside world gone.
func TestGoCommand(t *testing.T) {
	w := archiveWorld(t)
	addToolchain(t, w)
	s := surround(t, w)
	a := s.Found("a", s.online())
	b := s.Join("b", a, s.offline())
	s.Settle()
	for _, stage := range []struct {
		name   string
		office *Office
		before func()
	}{
		{"upstream", a, func() {}},
		{"mesh", b, func() {}},
		{"alone", b, func() { a.Stop(); s.upstream.Stop() }},
	} {
		stage.before()
		for name, task := range goTasks {
			if stage.name != "upstream" && name == "module that is not" {
				continue // without an upstream nobody can know that
			}
			t.Run(stage.name+"/"+name, func(t *testing.T) {
				task(t, s.client(t, stage.office))
			})
		}
		s.Check()
	}
	s.CheckOnce(s.upstream)
	if n, _ := b.Served("upstream"); n != 0 {
		t.Errorf("office b, without upstream, served %d answers from one", n)
	}
}
