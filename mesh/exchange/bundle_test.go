package exchange

import (
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/meshproxy/meshproxy/verify"
)

// smallFiles makes n files as short as many in a module are.
func smallFiles(n int) map[string][]byte {
	files := map[string][]byte{}
	for i := range n {
		files[fmt.Sprintf("pkg%d/file%d.go", i%7, i)] = fmt.Appendf(nil,
			"package pkg%d\n\n// Number is the number of this file.\nfunc Number%d() int { return %d }\n", i%7, i, i*i)
	}
	return files
}

func TestSmallFilesTravelTogether(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", smallFiles(700))
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(r)
	alone := holder.streams(t, r)
	stats, err := asker.fetch(t.Context(), r, holder.id())
	if err != nil {
		t.Fatal(err)
	}
	asker.served(r)
	t.Logf("%+v; %d bytes alone", stats, alone)
	if stats.Files != 700 || stats.Bytes > alone/3 || stats.Wasted != 0 {
		t.Errorf("%d files in %d bytes, %d in vain; want 700 in a third of %d", stats.Files, stats.Bytes, stats.Wasted, alone)
	}
}

// liarsOfBundles are holders whose bundles, or what they say of them, are wrong.
func liarsOfBundles() []adversary {
	as := func(content []byte, head fileHead) func(int, *fileHead, []byte) ([]byte, error) {
		frame, err := packFrame(content, nil, zstd.SpeedFastest)
		if err != nil {
			panic(err)
		}
		return func(_ int, h *fileHead, _ []byte) ([]byte, error) {
			was := h.Index
			*h = head
			if len(h.Lines) == 0 {
				h.Lines = []uint32{was}
			}
			if h.Packed == 0 {
				h.Packed = uint64(len(frame))
			}
			return frame, nil
		}
	}
	short := []byte("another file\n")
	n := uint32(len(short))
	return []adversary{
		{name: "another content", file: as(short, fileHead{Sizes: []uint32{n}})},
		{name: "shorter than announced", file: as(short, fileHead{Sizes: []uint32{n + 1}})},
		{name: "a bomb", file: as(make([]byte, 64<<20), fileHead{Sizes: []uint32{n}})},
		{name: "a frame without end", file: as(short, fileHead{Sizes: []uint32{n}, Packed: 1 << 50})},
		{name: "a file that is too large", file: as(short, fileHead{Sizes: []uint32{maxBundledFile + 1}})},
		{name: "an empty file", file: as(nil, fileHead{Sizes: []uint32{0}})},
		{name: "more sizes than lines", file: as(short, fileHead{Sizes: []uint32{n, n}})},
		{name: "a line twice", file: as(append(short, short...), fileHead{Lines: []uint32{0, 0}, Sizes: []uint32{n, n}})},
		{name: "a line that there is not", file: as(short, fileHead{Lines: []uint32{1 << 20}, Sizes: []uint32{n}})},
		{name: "too many files", file: as(short, fileHead{Lines: make([]uint32, maxBundled+1), Sizes: make([]uint32, maxBundled+1)})},
	}
}

func TestWrongBundleIsBlamedOnWhoSentIt(t *testing.T) {
	blamed(t, newRelease(t, "example.test/m", "v1.0.0", smallFiles(40)), liarsOfBundles())
}

func parsed(t *testing.T, text []byte) verify.Listing {
	t.Helper()
	listing, err := verify.ParseListing(text)
	if err != nil {
		t.Fatal(err)
	}
	return listing
}
