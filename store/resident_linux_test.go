package store

import (
	"bytes"
	"testing"
	"unsafe"

	"golang.org/x/mod/module"
)

func TestPagesOfValueLogsAreGivenUp(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	m := module.Version{Path: "example.test/large", Version: "v1.0.0"}
	root := putZip(t, s, m, makeZip(t, m, testFile{"a.bin", noise(3 << 20)}))
	want := readZip(t, s, root)
	z, err := s.OpenZip(root)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	chunks := 0
	for i := range uint32(3) {
		err := viewValue(z.snap.txn, streamKey(z.index.streams[0].num, i), func(v []byte) error {
			chunks++
			before := bytes.Clone(v)
			at := uintptr(unsafe.Pointer(unsafe.SliceData(v)))
			if _, _, ok := sharedMap(at, at+uintptr(len(v))); !ok {
				t.Errorf("chunk %d stands in no map of a value log", i)
			}
			dropPages(v)
			if !bytes.Equal(v, before) {
				t.Errorf("chunk %d is another after its pages were given up", i)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if chunks != 3 {
		t.Fatalf("%d chunks, want 3", chunks)
	}
	if got := readZip(t, s, root); !bytes.Equal(got, want) {
		t.Error("the zip is another after pages were given up")
	}
}

func TestMemoryThatIsNoFileIsLeftAlone(t *testing.T) {
	v := noise(1 << 20)
	want := bytes.Clone(v)
	dropPages(v)
	if !bytes.Equal(v, want) {
		t.Fatal("memory of the process was forgotten")
	}
}
