package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// clock is a settable Options.Clock.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestGCDropsByUseSparesPinnedAndLastCopies(t *testing.T) {
	ctx := context.Background()
	c := &clock{t: time.Unix(1_700_000_000, 0)}
	o := smallOptions()
	o.Clock = c.now
	var last verify.Digest
	o.MayDrop = func(_ context.Context, root verify.Digest) (bool, error) { return root != last, nil }
	s := openTest(t, t.TempDir(), o)
	var roots []verify.Digest
	shared := testFile{"shared", noise(1000)}
	for i := range 6 {
		m := module.Version{Path: "example.test/m", Version: fmt.Sprintf("v1.%d.0", i)}
		roots = append(roots, putZip(t, s, m, makeZip(t, m, shared, testFile{"own", noise(100_000)})))
		c.t = c.t.Add(time.Hour)
	}
	last = roots[0]
	if err := s.Pin("example.test/*@v1.1.*"); err != nil {
		t.Fatal(err)
	}
	readZip(t, s, roots[2]) // read now, so it goes last
	reader, err := s.OpenZip(roots[3])
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	s.mu.Lock()
	delete(s.reads, roots[3]) // as if it had been opened long ago
	s.mu.Unlock()

	plan, err := s.GC(ctx, GCOptions{MaxSize: 350_000, DryRun: true})
	if err != nil || len(plan.Dropped) != 3 || s.Accounting().Zips != 6 {
		t.Fatalf("dry run %+v, %v", plan, err)
	}
	report, err := s.GC(ctx, GCOptions{MaxSize: 350_000})
	if err != nil {
		t.Fatal(err)
	}
	want := []bool{true, true, true, false, false, false} // 3, 4, 5 are oldest but for 0 and 1
	for i, root := range roots {
		if s.HasZip(root) != want[i] {
			t.Errorf("zip %d held: %v", i, s.HasZip(root))
		}
	}
	if len(report.Dropped) != 3 || len(report.Kept) != 1 || report.Pinned != 1 || report.FreedBytes < 300_000 {
		t.Errorf("report %+v", report)
	}
	if plan.FreedBytes != report.FreedBytes {
		t.Errorf("dry run said %d, freed were %d", plan.FreedBytes, report.FreedBytes)
	}
	if n, err := io.Copy(io.Discard, reader); err != nil || n != reader.Size() {
		t.Errorf("reader of a dropped zip: %d bytes, %v", n, err)
	}
	checkStore(t, s)

	c.t = c.t.Add(48 * time.Hour)
	readZip(t, s, roots[1])
	if report, err = s.GC(ctx, GCOptions{MaxAge: 24 * time.Hour}); err != nil || len(report.Dropped) != 1 || s.HasZip(roots[2]) {
		t.Fatalf("by age: %+v, %v", report, err)
	}
	if err := s.Unpin("example.test/*@v1.1.*"); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpin("example.test/*@v1.1.*"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("unpin twice: %v", err)
	}
	checkStore(t, s)
}

// TestGCGivesSpaceBack: what is dropped leaves the disk while the store is open
// and is read.
func TestGCGivesSpaceBack(t *testing.T) {
	ctx := context.Background()
	o := smallOptions()
	o.tune = func(b badger.Options) badger.Options {
		return b.WithMemTableSize(1 << 20).WithValueLogFileSize(4 << 20).WithValueThreshold(1 << 10)
	}
	s := openTest(t, t.TempDir(), o)
	keep := module.Version{Path: "example.test/keep", Version: "v1.0.0"}
	root := putZip(t, s, keep, makeZip(t, keep, testFile{"f", noise(2 << 20)}))
	want := readZip(t, s, root)
	for i := range 20 {
		m := module.Version{Path: "example.test/m", Version: fmt.Sprintf("v1.%d.0", i)}
		putZip(t, s, m, makeZip(t, m, testFile{"f", noise(2 << 20)}, testFile{"g", noise(700)}))
	}
	if err := s.Pin(keep.Path); err != nil {
		t.Fatal(err)
	}
	report, err := s.GC(ctx, GCOptions{MaxSize: 3 << 20, Reclaim: true})
	if err != nil {
		t.Fatal(err)
	}
	if report.FreedBytes < 40<<20 || report.DiskBefore-report.DiskAfter < 30<<20 {
		t.Errorf("freed %d, disk %d to %d", report.FreedBytes, report.DiskBefore, report.DiskAfter)
	}
	if !bytes.Equal(readZip(t, s, root), want) {
		t.Error("the zip that stayed has changed")
	}
	checkStore(t, s)
}

// TestGCLeavesLittleAlone: where there is nothing to be had, giving space back is not
// tried, which would write much and make the store larger.
func TestGCLeavesLittleAlone(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	m := module.Version{Path: "example.test/m", Version: "v1.0.0"}
	putZip(t, s, m, makeZip(t, m, testFile{"f", noise(1 << 20)}))
	for range 2 {
		report, err := s.GC(context.Background(), GCOptions{Reclaim: true})
		if err != nil {
			t.Fatal(err)
		}
		if grown := report.DiskAfter - report.DiskBefore; grown > 1<<20 {
			t.Errorf("gc wrote %d bytes to a store that had nothing to give", grown)
		}
	}
}

func TestPinPatterns(t *testing.T) {
	for _, tc := range []struct {
		pattern, path, version string
		want                   bool
	}{
		{"example.test/a", "example.test/a", "v1.0.0", true},
		{"example.test/a", "example.test/a/sub", "v1.0.0", true},
		{"example.test/a", "example.test/b", "v1.0.0", false},
		{"example.test/*,other.test", "other.test/x", "v1.0.0", true},
		{"example.test/a@v1.*", "example.test/a", "v1.2.3", true},
		{"example.test/a@v1.*", "example.test/a", "v2.0.0", false},
	} {
		t.Run(tc.pattern+" "+tc.path+"@"+tc.version, func(t *testing.T) {
			p, err := parsePin(tc.pattern)
			if err != nil || p.match(module.Version{Path: tc.path, Version: tc.version}) != tc.want {
				t.Errorf("match is %v, %v", !tc.want, err)
			}
		})
	}
	for _, bad := range []string{"", "@v1.0.0", "[", "a@["} {
		if _, err := parsePin(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
