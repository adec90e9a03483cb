//go:build unix

package upstream_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
)

// goTestDatabase is the checksum database of the go command's own tests.
const (
	goTestDatabase    = "localhost.localdev/sumdb"
	goTestDatabaseKey = goTestDatabase + "+00000c67+AcTrnkbUA+TU4heY3hkjiSES/DSQniBqIeQ/YppAUtK6"
)

// TestGoModules puts a node without a store between the go command and the proxy
// of the go command's own tests, and holds that each of its modules, with its
// checksums proved by its database, is the same as without a node between.
func TestGoModules(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles the tests of the go command")
	}
	src, world := goTestProxy(t)
	u := parse(t, world, upstream.Options{Databases: map[string]string{goTestDatabase: ""}})
	s := httptest.NewServer(protocol.NewHandler(passing{u: u}, protocol.HandlerOptions{Self: "node-a"}))
	t.Cleanup(s.Close)

	mods := goTestModules(t, filepath.Join(src, "testdata", "mod"))
	want, got := goDownload(t, world, mods), goDownload(t, s.URL, mods)
	if len(want) != len(mods) {
		t.Fatalf("%d modules asked, %d answers", len(mods), len(want))
	}
	sums := 0
	for mod, w := range want {
		if g := got[mod]; g != w {
			t.Errorf("%s: %+v, without a node %+v", mod, g, w)
		}
		if w.Sum != "" {
			sums++
		}
	}
	t.Logf("%d module versions, %d of them good", len(mods), sums)
	if sums < 150 {
		t.Errorf("only %d modules were downloaded at all", sums)
	}
}

// goTestProxy starts the proxy of the go command's tests and returns the
// directory of those and the proxy's URL.
func goTestProxy(t *testing.T) (src, url string) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("the go command is not installed:", err)
	}
	src = filepath.Join(strings.TrimSpace(string(root)), "src", "cmd", "go")
	cmd := exec.Command("go", "test", "-proxy=127.0.0.1:0")
	cmd.Dir = src
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = cmd.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		io.Copy(io.Discard, out)
		cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if _, url, ok := strings.Cut(lines.Text(), "GOPROXY="); ok {
			return src, url
		}
	}
	t.Fatal("the go command's tests did not start a proxy")
	return "", ""
}

// goTestModules reads the names of the modules from those of their files.
func goTestModules(t *testing.T, dir string) []string {
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var mods []string
	for _, f := range files {
		base, ok := strings.CutSuffix(f.Name(), ".txt")
		i := strings.LastIndex(base, "_v")
		if !ok || i < 0 {
			continue
		}
		path, err1 := module.UnescapePath(strings.ReplaceAll(base[:i], "_", "/"))
		version, err2 := module.UnescapeVersion(base[i+1:])
		if err1 == nil && err2 == nil && protocol.IsCanonical(path, version) {
			mods = append(mods, path+"@"+version)
		}
	}
	return mods
}

// download is what the go command says of a module; Failed instead of the
// message, which names the proxy.
type download struct {
	Sum, GoModSum, Info string
	Failed              bool
}

func goDownload(t *testing.T, proxy string, mods []string) map[string]download {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", append([]string{"mod", "download", "-json"}, mods...)...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GOENV=off", "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=-modcacherw",
		"GOPATH=" + filepath.Join(dir, "path"), "GOCACHE=" + filepath.Join(dir, "cache"), "GOPROXY=" + proxy, "GOSUMDB=" + goTestDatabaseKey,
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	all := make(map[string]download)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var one struct{ Path, Version, Sum, GoModSum, Info, Error string }
		if err := d.Decode(&one); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		info, _ := os.ReadFile(one.Info) // absent where the download failed
		all[one.Path+"@"+one.Version] = download{one.Sum, one.GoModSum, string(info), one.Error != ""}
	}
}
