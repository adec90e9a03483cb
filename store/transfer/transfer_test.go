package transfer

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/goleak"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testKey = func() crypto.PrivKey {
	k, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

func openTest(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{Reserve: 1 << 20, ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		problems, err := s.Check(context.Background(), true, nil)
		if err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// admit is a door as a node has it, without trust: it verifies and commits.
func admit(s *store.Store) func(context.Context, *Candidate) error {
	return func(ctx context.Context, c *Candidate) error {
		rec := &verify.Record{
			Mesh: "test", Name: c.Name, Data: c.Data, Size: c.Size, Fetched: time.Unix(1_700_000_000, 0).UTC(),
			Source: "import", Vouch: verify.Vouch{By: verify.ByMember},
		}
		var staged *store.Staged
		switch c.Name.Kind {
		case verify.Info:
			rec.Digest = verify.DigestOf(c.Data)
		case verify.Mod:
			rec.Digest = verify.DigestMod(c.Data)
		case verify.Zip:
			z, err := store.ScanZip(ctx, c.Zip, c.Size, c.Name.Module)
			if err != nil {
				return err
			}
			if staged, err = s.StageZip(ctx, z); err != nil {
				return err
			}
			defer staged.Close()
			rec.Digest, rec.Size = z.Root, z.Size
		}
		signed, err := verify.Seal(rec, testKey)
		if err != nil {
			return err
		}
		return s.Commit(ctx, signed, staged)
	}
}

func have(s *store.Store) func(verify.Name) bool {
	return func(n verify.Name) bool {
		r, err := s.Record(n)
		return err == nil && (n.Kind != verify.Zip || s.HasZip(r.Record.Digest))
	}
}

type release struct {
	m     module.Version
	files map[string]string
}

var releases = []release{
	{module.Version{Path: "example.test/Acme/lib", Version: "v1.0.0"}, map[string]string{
		"go.mod": "module example.test/Acme/lib\n\ngo 1.20\n", "lib.go": "package lib\n\nconst V = 1\n", "LICENSE": "MIT"}},
	{module.Version{Path: "example.test/Acme/lib", Version: "v1.1.0"}, map[string]string{
		"go.mod": "module example.test/Acme/lib\n\ngo 1.20\n", "lib.go": "package lib\n\nconst V = 2\n", "LICENSE": "MIT"}},
	{module.Version{Path: "example.test/untagged", Version: "v0.0.0-20240102030405-0123456789ab"}, map[string]string{
		"go.mod": "module example.test/untagged\n", "u.go": "package untagged\n"}},
}

// proxyTree writes releases as a GOPROXY of files.
func proxyTree(t *testing.T, dir string) {
	t.Helper()
	for _, r := range releases {
		path, err := module.EscapePath(r.m.Path)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Join(dir, filepath.FromSlash(path), "@v", r.m.Version)
		writeFile(t, base+".info", []byte(fmt.Sprintf(`{"Version":%q,"Time":"2024-01-02T03:04:05Z"}`, r.m.Version)))
		writeFile(t, base+".mod", []byte(r.files["go.mod"]))
		writeFile(t, base+".zip", zipOf(t, r))
	}
}

func zipOf(t *testing.T, r release) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range r.files {
		f, err := w.Create(r.m.Path + "@" + r.m.Version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		files[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestExportServesTheGoCommand: tree -> store -> tree -> go command -> module
// cache -> store -> tree, and both trees are the same.
func TestExportServesTheGoCommand(t *testing.T) {
	ctx := context.Background()
	first, out := t.TempDir(), t.TempDir()
	proxyTree(t, first)
	a := openTest(t)
	report, err := Import(ctx, first, ImportOptions{Admit: admit(a), Have: have(a)})
	if err != nil || report.Done != 9 || report.Refusals != 0 {
		t.Fatalf("import %+v, %v", report, err)
	}
	if report, err = Import(ctx, first, ImportOptions{Admit: admit(a), Have: have(a)}); err != nil || report.Skipped != 9 || report.Done != 0 {
		t.Fatalf("import again %+v, %v", report, err)
	}
	if report, err = Export(ctx, a, out, ExportOptions{}); err != nil || report.Done != 9 {
		t.Fatalf("export %+v, %v", report, err)
	}
	if report, err = Export(ctx, a, out, ExportOptions{}); err != nil || report.Skipped != 9 || report.Done != 0 {
		t.Fatalf("export again %+v, %v", report, err)
	}

	cache := goDownload(t, out, "example.test/Acme/lib@latest", "example.test/Acme/lib@v1.0.0", "example.test/untagged@latest")
	b := openTest(t)
	if report, err = Import(ctx, cache, ImportOptions{Admit: admit(b), Have: have(b)}); err != nil || report.Refusals != 0 || report.Done != 9 {
		t.Fatalf("import of the module cache %+v, %v", report, err)
	}
	again := t.TempDir()
	if _, err := Export(ctx, b, again, ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	want, got := tree(t, out), tree(t, again)
	for name := range want {
		if got[name] != want[name] && !strings.HasSuffix(name, ".info") && !strings.HasSuffix(name, "@latest") { // the go command rewrites these
			t.Errorf("%s differs", name)
		}
	}
	if len(got) != len(want) || len(want) != 13 {
		t.Errorf("%d files, then %d", len(want), len(got))
	}
	only := t.TempDir()
	if report, err = Export(ctx, a, only, ExportOptions{Want: func(m module.Version) bool { return m == releases[0].m }}); err != nil || report.Done != 3 {
		t.Errorf("export of one %+v, %v", report, err)
	}
}

// goDownload has the real go command fetch modules from a tree, and returns its
// module cache.
func goDownload(t *testing.T, proxy string, queries ...string) string {
	t.Helper()
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cache := filepath.Join(home, "mod")
	t.Cleanup(func() {
		_ = filepath.WalkDir(cache, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(name, 0o755) // the go command makes it read-only
			}
			return nil
		})
	})
	cmd := exec.Command(goTool, append([]string{"mod", "download", "-json"}, queries...)...)
	cmd.Dir = home
	cmd.Env = []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GOPATH=" + home, "GOMODCACHE=" + cache, "GOCACHE=" + filepath.Join(home, "build"),
		"GOPROXY=file://" + filepath.ToSlash(proxy), "GOSUMDB=off", "GOENV=off", "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=-modcacherw",
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod download: %v\n%s", err, output)
	}
	return cache
}

func TestImportAthens(t *testing.T) {
	dir := t.TempDir()
	for _, r := range releases {
		base := filepath.Join(dir, filepath.FromSlash(r.m.Path), r.m.Version)
		writeFile(t, filepath.Join(base, "go.mod"), []byte(r.files["go.mod"]))
		writeFile(t, filepath.Join(base, "source.zip"), zipOf(t, r))
		writeFile(t, filepath.Join(base, r.m.Version+".info"), []byte(fmt.Sprintf(`{"Version":%q}`, r.m.Version)))
	}
	// A torn zip, as Athens leaves them after a crash.
	torn := filepath.Join(dir, "example.test", "torn", "v1.0.0")
	writeFile(t, filepath.Join(torn, "source.zip"), zipOf(t, releases[0])[:100])
	s := openTest(t)
	report, err := Import(context.Background(), dir, ImportOptions{Admit: admit(s)})
	if err != nil || report.Done != 9 || report.Refusals != 1 || !errors.Is(report.Refused[0].Err, store.ErrBadFile) {
		t.Fatalf("import %+v, %v", report, err)
	}
	for _, r := range releases {
		if !have(s)(verify.Name{Module: r.m, Kind: verify.Zip}) {
			t.Errorf("%s is missing", r.m)
		}
	}
}

func TestImportRefusesAndIgnores(t *testing.T) {
	dir := t.TempDir()
	proxyTree(t, dir)
	at := func(name string) string { return filepath.Join(dir, "example.test", filepath.FromSlash(name)) }
	writeFile(t, at("branch/@v/main.info"), []byte(`{"Version":"v1.0.0"}`))
	writeFile(t, at("branch/@v/list"), nil)
	writeFile(t, at("branch/@v/v1.0.0.lock"), nil)
	writeFile(t, at("bad/@v/v1.0.0.info"), []byte(`{"Version":"v1.0.1"}`))
	writeFile(t, at("Capital/@v/v1.0.0.mod"), []byte("module x\n"))
	writeFile(t, at("noncanonical/@v/v1.0.zip"), []byte("zip"))
	writeFile(t, at("swapped/@v/v1.0.0.zip"), zipOf(t, releases[0]))
	writeFile(t, at("large/@v/v1.0.0.info"), make([]byte, verify.MaxInfo+1))
	if err := os.Symlink(at("!acme/lib/@v/v1.0.0.mod"), at("bad/@v/v1.0.0.mod")); err != nil {
		t.Fatal(err)
	}
	s := openTest(t)
	report, err := Import(context.Background(), dir, ImportOptions{Admit: admit(s)})
	if err != nil {
		t.Fatal(err)
	}
	var refused []string
	for _, r := range report.Refused {
		refused = append(refused, r.Path)
	}
	slices.Sort(refused)
	want := []string{
		"example.test/Capital/@v/v1.0.0.mod", "example.test/bad/@v/v1.0.0.info", "example.test/bad/@v/v1.0.0.mod",
		"example.test/large/@v/v1.0.0.info", "example.test/noncanonical/@v/v1.0.zip", "example.test/swapped/@v/v1.0.0.zip",
	}
	if !slices.Equal(refused, want) || report.Done != 9 {
		t.Fatalf("refused %q, done %d", refused, report.Done)
	}
	if _, err := Import(context.Background(), t.TempDir(), ImportOptions{Admit: admit(s)}); err == nil {
		t.Error("an empty directory is a tree")
	}
}

// TestImportIsResumed: what was admitted before an interruption is not done again.
func TestImportIsResumed(t *testing.T) {
	dir := t.TempDir()
	proxyTree(t, dir)
	s := openTest(t)
	ctx, cancel := context.WithCancel(context.Background())
	var n atomic.Int32
	door := admit(s)
	report, err := Import(ctx, dir, ImportOptions{Workers: 1, Have: have(s), Admit: func(ctx context.Context, c *Candidate) error {
		if n.Add(1) == 4 {
			cancel()
		}
		return door(ctx, c)
	}})
	if !errors.Is(err, context.Canceled) || report.Done != 3 {
		t.Fatalf("interrupted %+v, %v", report, err)
	}
	report, err = Import(context.Background(), dir, ImportOptions{Have: have(s), Admit: door})
	if err != nil || report.Skipped < 3 || report.Skipped+report.Done != 9 {
		t.Fatalf("resumed %+v, %v", report, err)
	}
}

func TestProject(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "go.mod"), []byte("module example.test/p\n\nrequire example.test/a v1.0.0\n"))
	names, err := Project(dir)
	if err != nil || len(names) != 3 || names[2].Kind != verify.Zip {
		t.Fatalf("from go.mod: %v, %v", names, err)
	}
	hash := verify.DigestOf(nil).H1()
	writeFile(t, filepath.Join(dir, "go.sum"), []byte(
		"example.test/a v1.0.0 "+hash+"\nexample.test/a v1.0.0/go.mod "+hash+"\nexample.test/b v1.0.0/go.mod "+hash+"\n"))
	names, err = Project(dir)
	if err != nil || len(names) != 4 {
		t.Fatalf("from go.sum: %v, %v", names, err)
	}
	writeFile(t, filepath.Join(dir, "go.sum"), []byte("not a go.sum\n"))
	if _, err := Project(dir); err == nil {
		t.Error("a bad go.sum is accepted")
	}
}
