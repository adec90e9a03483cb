package transfer

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// TestRealTree imports the tree that MESHPROXY_TREE names: every zip of it must
// pass, its digest must be the one that the go command wrote beside it, and the
// store must be whole. It prints how much smaller the store is.
func TestRealTree(t *testing.T) {
	dir := os.Getenv("MESHPROXY_TREE")
	if dir == "" {
		t.Skip("MESHPROXY_TREE names no tree of modules")
	}
	s := openTest(t)
	start := time.Now()
	report, err := Import(context.Background(), dir, ImportOptions{Admit: admit(s), Have: have(s), Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Refused {
		t.Error(r)
	}
	took := time.Since(start).Seconds()
	a := s.Accounting()
	fmt.Printf("imported %d files, %.1f MB in %.1f s (%.1f MB/s); zips %d, %.1f MB; distinct files %d, %.1f MB (%.2f of the zips); shared %d; disk %.1f MB\n",
		report.Done, float64(report.Bytes)/1e6, took, float64(report.Bytes)/1e6/took, a.Zips, float64(a.ZipBytes)/1e6, a.Files,
		float64(a.FileBytes)/1e6, float64(a.FileBytes)/float64(a.ZipBytes), a.Shared, float64(s.DiskUsage())/1e6)
	checkHashes(t, s, dir)
}

// checkHashes compares each root with the .ziphash file of a module cache.
func checkHashes(t *testing.T, s *store.Store, dir string) {
	t.Helper()
	root, f, err := Detect(dir)
	if err != nil || f != ModCache {
		return
	}
	err = walk(context.Background(), root, f, func(f file) error {
		if f.name.Kind != verify.Zip {
			return nil
		}
		want, err := os.ReadFile(root + "/" + f.path[:len(f.path)-len("zip")] + "ziphash")
		if err != nil {
			return nil // downloaded and never unpacked
		}
		r, err := s.Record(f.name)
		if err != nil || r.Record.Digest.H1() != string(want) {
			t.Errorf("%s: %v, the go command says %s", f.name, err, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
