package store

import (
	"context"
	"reflect"
	"testing"

	"golang.org/x/mod/module"
)

func TestUsageCountsByModule(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	license := testFile{"LICENSE", noise(3000)}
	lib := testFile{"lib.go", noise(2000)}
	put := func(path, version string, files ...testFile) {
		m := module.Version{Path: path, Version: version}
		putZip(t, s, m, makeZip(t, m, files...))
	}
	put("example.test/a", "v1.0.0", license, lib)
	put("example.test/a", "v1.1.0", license, lib, testFile{"new.go", noise(1000)})
	put("example.test/b", "v1.0.0", license)
	put("example.test/bb", "v1.0.0", testFile{"own", noise(500)})
	if err := s.Pin("example.test/a@v1.0.*"); err != nil {
		t.Fatal(err)
	}
	got := map[string]Usage{}
	if err := s.Usage(context.Background(), "", func(u Usage) error { got[u.Path] = u; return nil }); err != nil {
		t.Fatal(err)
	}
	if a := got["example.test/a"]; a.Zips != 2 || a.Files != 3 || a.SharedFiles != 1 || a.Pinned != 1 {
		t.Errorf("a: %+v", a)
	}
	if b := got["example.test/b"]; b.Files != 1 || b.FileBytes != b.SharedBytes || b.SharedBytes == 0 {
		t.Errorf("b: %+v", b)
	}
	// What dropping each would free, and what is shared once, is all there is.
	total := got["example.test/b"].SharedBytes
	for _, u := range got {
		total += u.FileBytes - u.SharedBytes
	}
	if have := s.Accounting().FileBytes; total != have {
		t.Errorf("modules take %d bytes, the store %d", total, have)
	}
	n := 0
	if err := s.Usage(context.Background(), "example.test/b", func(Usage) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("prefix: %d modules, %v", n, err)
	}
}

func TestUpkeepRemembersTheLastScrubAndGC(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s, err := Open(dir, smallOptions())
	if err != nil {
		t.Fatal(err)
	}
	m := module.Version{Path: "example.test/m", Version: "v1.0.0"}
	putZip(t, s, m, makeZip(t, m, testFile{"f", noise(100)}))
	if u := s.Upkeep(); !u.Scrubbed.IsZero() || !u.Collected.IsZero() {
		t.Fatalf("before: %+v", u)
	}
	if _, err := s.Scrub(ctx, ScrubOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(ctx, GCOptions{MaxSize: 1, DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if u := s.Upkeep(); u.Scrubbed.IsZero() || u.Files != 1 || u.Scrubbing || !u.Collected.IsZero() {
		t.Errorf("after a scrub and a dry run: %+v", u)
	}
	if _, err := s.GC(ctx, GCOptions{MaxSize: 1}); err != nil {
		t.Fatal(err)
	}
	if u := s.Upkeep(); u.Collected.IsZero() || u.Dropped != 1 {
		t.Errorf("after a gc: %+v", u)
	}
	gone, end := context.WithCancel(ctx)
	end()
	if _, err := s.Scrub(gone, ScrubOptions{}); err == nil {
		t.Fatal("a scrub that was broken off has no error")
	}
	if u := s.Upkeep(); u.Scrubbing {
		t.Error("a scrub that was broken off goes on for ever")
	}
	want := s.Upkeep()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := openTest(t, dir, smallOptions()).Upkeep(); !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart %+v, want %+v", got, want)
	}
}
