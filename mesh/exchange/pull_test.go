package exchange

import (
	"testing"
)

func TestPullFromOneHolder(t *testing.T) {
	w := newWorld(t, 2)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 300, 3<<20, 100<<10))
	w.offices[0].admit(r)
	stats, err := w.offices[1].fetch(t.Context(), r, w.offices[0].id())
	if err != nil {
		t.Fatal(err)
	}
	w.offices[1].served(r)
	t.Logf("%+v", stats)
	if stats.Files != 303 || stats.Wasted != 0 {
		t.Errorf("got %d files and %d bytes wasted, want 303 and none", stats.Files, stats.Wasted)
	}
}

func TestPullUpgradeMovesOnlyWhatChanged(t *testing.T) {
	w := newWorld(t, 2)
	files := sources(1, 200)
	old := newRelease(t, "example.test/m", "v1.0.0", files)
	files["pkg1/file1.go"] = []byte("package pkg1 // changed\n")
	new := newRelease(t, "example.test/m", "v1.0.1", files)
	w.offices[0].admit(old)
	w.offices[0].admit(new)
	if _, err := w.offices[1].fetch(t.Context(), old, w.offices[0].id()); err != nil {
		t.Fatal(err)
	}
	stats, err := w.offices[1].fetch(t.Context(), new, w.offices[0].id())
	if err != nil {
		t.Fatal(err)
	}
	w.offices[1].served(new)
	if stats.Files != 1 || stats.Bytes > 100 {
		t.Errorf("upgrade fetched %d files, %d bytes; want the one that changed", stats.Files, stats.Bytes)
	}
}
