package testnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the module's directory, seen from this package's tests.
const root = ".."

// modulePath is the import path of this repository.
const modulePath = "github.com/meshproxy/meshproxy"

// pkg is what go list says of a package of this module.
type pkg struct {
	ImportPath   string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
}

// name is the path below the module.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, modulePath+"/") }

func listPackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports,TestImports,XTestImports,GoFiles", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 && strings.HasPrefix(p.ImportPath, modulePath+"/") {
			pkgs = append(pkgs, p)
		}
	}
	return pkgs
}

// A room is a package, or a tree of them, with the rooms it may know of and those
// in them. Arrows point down only.
type room struct {
	name string
	may  []string
	why  string
}

// rooms are in order: the first whose name leads to a package is that package's.
var rooms = []room{
	{"cmd", []string{"node", "mesh", "protocol", "store", "verify", "testnet/up", "testnet/bench", "testnet/wan"},
		"a command wires what exists; of the test world it knows what people try and measure, which tests need not"},
	{"testnet/ports", nil,
		"a port is chosen for whoever asks"},
	{"testnet/outside", []string{"testnet/ports"},
		"a world made with the code under test would agree with its errors"},
	{"testnet/wan/wantest", []string{"testnet/wan"},
		"what tests are given for networks is no part of them: the binary holds these"},
	{"testnet/wan", nil,
		"a network that knew what offices say could not be trusted to carry it"},
	{"testnet/toxic", []string{"testnet/ports"},
		"a network that knew what offices say could not be trusted to carry it"},
	{"testnet/process", []string{"node"},
		"an office in a process is known by its command line, and by what that prints"},
	{"testnet/up", []string{"testnet/outside", "testnet/wan", "testnet/toxic", "testnet/ports", "testnet/process", "node"},
		"it is in the binary: offices are processes, and nothing of what tests need comes along"},
	{"testnet/bench", []string{"testnet/outside", "testnet/wan", "testnet/process"},
		"it is in the binary, and measures what an operator would see from outside"},
	{"testnet", []string{"testnet", "node", "mesh", "protocol", "store", "verify"},
		"the test world runs offices; it does not know how a command line starts one"},
	{"node/policy", nil,
		"what is allowed follows from rules alone: whoever knows stores and peers would make exceptions"},
	{"node/dashboard", []string{"node", "store"},
		"pages show what a node says of itself: an office works the same without them"},
	{"node/tracing", nil,
		"where traces go is decided at the start: an office makes them without knowing who reads them"},
	{"node", []string{"node/policy", "mesh", "protocol", "store", "verify"},
		"an office composes the rooms below and is known to none of them"},
	{"mesh/member", []string{"verify"},
		"who belongs is decided by signed statements alone, without store or network"},
	{"mesh/exchange", []string{"mesh/member", "store", "verify"},
		"files move between members whatever the shape of the mesh above"},
	{"mesh", []string{"mesh/member", "mesh/exchange", "store", "verify"},
		"peers know nothing of GOPROXY: another protocol could stand on the same mesh"},
	{"protocol", []string{"store", "verify"},
		"the GOPROXY grammar and its upstreams work without any mesh"},
	{"store", []string{"verify"},
		"the store keeps what it is given and verified; it fetches nothing"},
	{"verify", nil,
		"what is true of bytes does not depend on where they came from or are kept"},
}

// A fence keeps an outside package, or a tree of them, to some rooms.
type fence struct {
	path  string
	rooms []string
	why   string
}

var fences = []fence{
	{"github.com/dgraph-io/badger", []string{"store"},
		"one room knows how bytes lie on disk, so that it can be changed in one room"},
	{"github.com/libp2p/go-libp2p-kad-dht", []string{"mesh"},
		"routing is the mesh's business"},
	{"github.com/libp2p/go-libp2p/p2p", []string{"mesh"},
		"connections between offices are the mesh's business; others know peer IDs and keys at most"},
	{"github.com/urfave/cli", []string{"cmd"},
		"only the command reads flags, environment and configuration files"},
	{"go.opentelemetry.io/otel/sdk", []string{"node/tracing"},
		"all others make spans; one room knows how they leave"},
	{"go.opentelemetry.io/otel/exporters", []string{"node/tracing"},
		"all others make spans; one room knows how they leave"},
	{"net/http", []string{"cmd", "node", "protocol", "testnet"},
		"the rooms below speak no HTTP: a hash or a store that fetches could not be reasoned about"},
	{"os/exec", []string{"cmd", "node", "protocol", "testnet"},
		"child processes are where hostile names become arguments: the direct upstream runs them, the doctor only looks for them"},
	{"testing", []string{"testnet"}, // and not in what the binary is made of: TestBinaryHoldsNoTests
		"code for tests lives in test files or in the test world"},
}

// below reports whether name is tree or lies in it.
func below(name, tree string) bool {
	return name == tree || strings.HasPrefix(name, tree+"/")
}

func roomOf(name string) (room, bool) {
	i := slices.IndexFunc(rooms, func(r room) bool { return below(name, r.name) })
	if i < 0 {
		return room{}, false
	}
	return rooms[i], true
}

// breach says why importer must not import imported, or "".
func breach(importer, imported string, inTest bool) string {
	r, ok := roomOf(importer)
	if !ok {
		return "no room has this package: give it one, with the reason for its arrows"
	}
	if target, ok := strings.CutPrefix(imported, modulePath+"/"); ok {
		to, _ := roomOf(target)
		switch {
		case to.name == r.name || slices.ContainsFunc(r.may, func(tree string) bool { return below(to.name, tree) }):
			return ""
		case inTest && below(target, "testnet") && (r.name == "cmd" || below(r.name, "node")):
			return "" // an office, or the command that runs one, is tested in a world
		case inTest && to.name == "testnet/outside":
			return "" // any room may be tested against it: it stands on none
		case inTest && below(r.name, "testnet") && below(target, "testnet"):
			return "" // parts of the test world are tested in it
		}
		return r.why
	}
	for _, f := range fences {
		if inTest || !below(imported, f.path) {
			continue
		}
		if !slices.ContainsFunc(f.rooms, func(allowed string) bool { return below(importer, allowed) }) {
			return f.why
		}
	}
	return ""
}

func TestLayers(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, i := range p.Imports {
			if why := breach(p.name(), i, false); why != "" {
				t.Errorf("%s imports %s: %s", p.name(), i, why)
			}
		}
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			if why := breach(p.name(), i, true); why != "" && i != p.ImportPath {
				t.Errorf("tests of %s import %s: %s", p.name(), i, why)
			}
		}
	}
}

// TestLayersCatchesABreach shows that the rules can fail.
func TestLayersCatchesABreach(t *testing.T) {
	for name, c := range map[string]struct {
		importer, imported string
		inTest             bool
		want               bool
	}{
		"mesh knows protocol":             {"mesh/exchange", modulePath + "/protocol", false, true},
		"protocol knows mesh":             {"protocol", modulePath + "/mesh/member", false, true},
		"store knows node":                {"store", modulePath + "/node", true, true},
		"verify knows store":              {"verify", modulePath + "/store", false, true},
		"command ships the test world":    {"cmd/meshproxy", modulePath + "/testnet", false, true},
		"an office ships the test world":  {"node", modulePath + "/testnet", false, true},
		"an office is tested in it":       {"node", modulePath + "/testnet", true, false},
		"command is tested in it":         {"cmd/meshproxy", modulePath + "/testnet", true, false},
		"node knows badger":               {"node", "github.com/dgraph-io/badger/v4", false, true},
		"store knows badger":              {"store", "github.com/dgraph-io/badger/v4", false, false},
		"verify speaks HTTP":              {"verify", "net/http", false, true},
		"verify traces HTTP":              {"verify", "net/http/httptrace", false, true},
		"a package without a room":        {"pkg/util", "fmt", false, true},
		"node knows mesh":                 {"node", modulePath + "/mesh", false, false},
		"mesh knows its own subpackage":   {"mesh", modulePath + "/mesh/exchange", false, false},
		"a subpackage knows mesh":         {"mesh/exchange", modulePath + "/mesh", false, true},
		"command ships what people try":   {"cmd/meshproxy", modulePath + "/testnet/up", false, false},
		"what ships knows the test world": {"testnet/up", modulePath + "/testnet", false, true},
		"a network knows offices":         {"testnet/wan", modulePath + "/node", false, true},
		"the outside world shares a hash": {"testnet/outside", modulePath + "/verify", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			if why := breach(c.importer, c.imported, c.inTest); (why != "") != c.want {
				t.Errorf("breach %q", why)
			}
		})
	}
}

// TestBinaryHoldsNoTests: what the binary is made of, parts of the test world among it,
// brings no package for tests along.
func TestBinaryHoldsNoTests(t *testing.T) {
	all := map[string]pkg{}
	for _, p := range listPackages(t) {
		all[p.ImportPath] = p
	}
	seen := map[string]bool{}
	var walk func(path string)
	walk = func(path string) {
		p, ours := all[path]
		if !ours || seen[path] {
			return
		}
		seen[path] = true
		for _, i := range p.Imports {
			if below(i, "testing") || i == "net/http/httptest" {
				t.Errorf("%s, which is in the binary, imports %s", p.name(), i)
			}
			walk(i)
		}
	}
	walk(modulePath + "/cmd/meshproxy")
	if !seen[modulePath+"/testnet/up"] || !seen[modulePath+"/node"] {
		t.Errorf("the binary is made of %d packages, and not of what it should be", len(seen))
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(strings.Fields(p.Doc)) < 5 {
			t.Errorf("package %s: no comment says what it promises: %q", p.name(), p.Doc)
		}
	}
}

// TestRepositoryNamesNoMachine keeps the default proxy's and database's names, and
// the directories of whoever works on the code, out of the repository: the names
// are the toolchain's to change, the directories exist nowhere else. What to look
// for is asked of this machine, so that it is written nowhere.
func TestRepositoryNamesNoMachine(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("no git checkout: %v", err)
	}
	names := append(toolchainHosts(t), machineDirs(t)...)
	if len(names) == 0 {
		t.Fatal("this machine has no names to look for")
	}
	for _, file := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(root, file))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted in the work tree
		} else if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if i := findName(text, name); i >= 0 {
				t.Errorf("%s:%d names %s", file, 1+bytes.Count(text[:i], []byte("\n")), name)
			}
		}
	}
}

// findName finds a name that is not part of a longer word.
func findName(text []byte, name string) int {
	loc := regexp.MustCompile(`(^|[^\w/.-])` + regexp.QuoteMeta(name) + `($|[^\w-])`).FindIndex(text)
	if loc == nil {
		return -1
	}
	return loc[0]
}

func TestFindName(t *testing.T) {
	for text, want := range map[string]bool{
		"see host.test.":           true,
		"GOPROXY=host.test,off":    true,
		"https://host.test/x":      true,
		"https://my-host.test/x":   false,
		"host.tests are bad":       false,
		"nothing at all":           false,
		"(host.test)":              true,
		"sub.host.test is another": false,
	} {
		name := "host.test"
		if strings.Contains(text, "://") {
			name = "https://" + name
		}
		if got := findName([]byte(text), name) >= 0; got != want {
			t.Errorf("%q: found is %v", text, got)
		}
	}
}

// toolchainHosts are the hosts that the go command uses where nobody configured
// it, and those that it uses here.
func toolchainHosts(t *testing.T) []string {
	hosts := map[string]bool{}
	for _, env := range [][]string{os.Environ(), {"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GOENV=off"}} {
		cmd := exec.CommandContext(t.Context(), "go", "env", "GOPROXY", "GOSUMDB")
		cmd.Env = env
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go env: %v", err)
		}
		for _, word := range strings.FieldsFunc(string(out), func(r rune) bool { return strings.ContainsRune(",| \n", r) }) {
			if h := hostOf(word); h != "" {
				hosts[h] = true
			}
		}
	}
	var list []string
	for h := range hosts {
		list = append(list, h, "https://"+h, "http://"+h)
	}
	return list
}

// hostOf is the public host that an entry of GOPROXY or GOSUMDB names, or "".
func hostOf(word string) string {
	if !strings.Contains(word, "://") {
		word, _, _ = strings.Cut(word, "+") // a database's key
		word = "https://" + word
	}
	u, err := url.Parse(word)
	if err != nil || !strings.Contains(u.Hostname(), ".") || strings.Trim(u.Hostname(), "0123456789.:") == "" {
		return ""
	}
	return u.Hostname()
}

// machineDirs are directories of this checkout and this user, as far as they are
// long enough to be told from those that are everywhere.
func machineDirs(t *testing.T) []string {
	var dirs []string
	if abs, err := filepath.Abs(root); err == nil {
		dirs = append(dirs, abs)
	}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, home)
	}
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE", "GOCACHE").Output()
	if err != nil {
		t.Fatal(fmt.Errorf("go env: %w", err))
	}
	dirs = append(dirs, strings.Fields(string(out))...)
	return slices.DeleteFunc(dirs, func(d string) bool { return strings.Count(d, "/") < 2 })
}
