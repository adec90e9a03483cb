package exchange

import (
	"bytes"
	"fmt"
	mrand "math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// upgrade makes two releases: in the second one each small file has a line more, and
// one is new.
func upgrade(t testing.TB, path string) (old, new *release) {
	t.Helper()
	files := sources(1, 60)
	old = newRelease(t, path, "v1.0.0", files)
	for i := range 60 {
		name := fmt.Sprintf("pkg%d/file%d.go", i%17, i)
		files[name] = append([]byte("// one line more\n"), files[name]...)
	}
	files["new.go"] = []byte("package new\n")
	return old, newRelease(t, path, "v1.1.0", files)
}

func TestChangedFilesTravelAsDifferences(t *testing.T) {
	old, new := upgrade(t, "example.test/m")
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(old)
	holder.admit(new)
	if _, err := asker.fetch(t.Context(), old, holder.id()); err != nil {
		t.Fatal(err)
	}
	received := asker.x.limits.recd.Load()
	stats, err := asker.fetchFrom(t.Context(), new, []verify.Digest{old.root}, holder.id())
	if err != nil {
		t.Fatal(err)
	}
	asker.served(new)
	received = asker.x.limits.recd.Load() - received
	t.Logf("%+v, %d bytes received", stats, received)
	if stats.Files != 61 || stats.Bytes > 61*100 || stats.Wasted != 0 {
		t.Errorf("%d files in %d bytes, %d wasted; want 61 in less than 100 each", stats.Files, stats.Bytes, stats.Wasted)
	}
	if received > 61*200+2000 {
		t.Errorf("%d bytes came in all", received)
	}
	if lies := asker.x.health.peers[holder.id()].lies; len(lies) > 0 {
		t.Error("an honest holder is named as a liar")
	}
}

// The largest files that may be dictionaries are, and those that are larger are not.
func TestLargeFilesAsDifferences(t *testing.T) {
	noise := make([]byte, 64<<10) // too long for DEFLATE to see it come again
	rnd := mrand.New(mrand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(rnd.IntN(256))
	}
	text := func(size int) []byte {
		if size > maxDiffed {
			return make([]byte, size) // quick to zip: nothing looks at it
		}
		return bytes.Repeat(noise, size/len(noise)+1)[:size]
	}
	for _, c := range []struct {
		name string
		size int
		diff bool
	}{{"largest", maxDiffed, true}, {"too large", maxDiffed + 1, false}} {
		t.Run(c.name, func(t *testing.T) {
			content := text(c.size)
			old := newRelease(t, "example.test/m", "v1.0.0", map[string][]byte{"a": content})
			content[0] ^= 1
			new := newRelease(t, "example.test/m", "v1.0.1", map[string][]byte{"a": content})
			holder := newWorld(t, 1).offices[0]
			holder.admit(old)
			holder.admit(new)
			dict := bytes.Clone(content)
			dict[0] ^= 1
			sum := verify.DigestOf(content)
			head, frame, err := holder.x.diff(t.Context(), sum, verify.DigestOf(dict))
			if err != nil || (head != nil) != c.diff {
				t.Fatalf("head of a difference %+v (%v), want one: %v", head, err, c.diff)
			}
			if head == nil {
				return
			}
			got, err := unpackFrame(frame, dict, head.Size)
			if err != nil || verify.DigestOf(got) != sum || len(frame) > 4<<10 {
				t.Errorf("%d bytes come out of a frame of %d, %v", len(got), len(frame), err)
			}
		})
	}
}

func TestNoDifference(t *testing.T) {
	old, new := upgrade(t, "example.test/m")
	hidden, _ := upgrade(t, "example.test/hidden")
	for _, c := range []struct {
		name           string
		holds, has     []*release
		offered        *release
		listed, wasted bool // the asker has but the listing of what it offers; something came in vain
	}{
		{name: "the holder lacks the base", holds: []*release{new}, has: []*release{old}, offered: old},
		{name: "the asker lacks the files of the base", holds: []*release{old, new}, listed: true, offered: old, wasted: true},
		{name: "the asker may not have the base", holds: []*release{hidden, new}, has: []*release{hidden}, offered: hidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 2, func(i int, cfg *Config) {
				if i == 0 {
					cfg.Share = func(_ peer.ID, path string) bool { return path != hidden.module.Path }
				}
			})
			holder, asker := w.offices[0], w.offices[1]
			for _, r := range c.holds {
				holder.admit(r)
			}
			for _, r := range c.has {
				asker.admit(r)
			}
			if c.listed {
				text, err := holder.store.Listing(c.offered.root)
				if err != nil {
					t.Fatal(err)
				}
				st, err := asker.store.StageListing(t.Context(), c.offered.module, c.offered.root, text)
				if err != nil {
					t.Fatal(err)
				}
				defer st.Close()
			}
			stats, err := asker.fetchFrom(t.Context(), new, []verify.Digest{c.offered.root}, holder.id())
			if err != nil {
				t.Fatal(err)
			}
			asker.served(new)
			if c.name != "the asker may not have the base" && stats.Bytes < 61*100 {
				t.Errorf("all came in %d bytes", stats.Bytes)
			}
			if (stats.Wasted > 0) != c.wasted {
				t.Errorf("%d bytes came in vain, want some: %v", stats.Wasted, c.wasted)
			}
			if lies := asker.x.health.peers[holder.id()].lies; len(lies) > 0 {
				t.Error("the holder is named as a liar")
			}
		})
	}
}

// liarsOfDifferences are holders whose frames, or what they say of them, are wrong.
func liarsOfDifferences(old *release) []adversary {
	named := func(m *filesOpened, frame []byte) []byte {
		m.Base = old.root[:]
		return frame
	}
	as := func(frame []byte, head fileHead) func(int, *fileHead, []byte) ([]byte, error) {
		return func(_ int, h *fileHead, _ []byte) ([]byte, error) {
			head.Index = h.Index
			if head.Packed == 0 {
				head.Packed = uint64(len(frame))
			}
			*h = head
			return frame, nil
		}
	}
	other, _ := packFrame([]byte("another file\n"), nil, zstd.SpeedFastest)
	zeros, _ := packFrame(make([]byte, 64<<20), nil, zstd.SpeedFastest)
	return []adversary{
		{name: "another content", opened: named, file: as(other, fileHead{From: 1, Size: 13})},
		{name: "no frame", opened: named, file: as([]byte("no frame"), fileHead{From: 1, Size: 13})},
		{name: "a bomb", opened: named, file: as(zeros, fileHead{From: 1, Size: 13})},
		{name: "a bomb that is announced", opened: named, file: as(zeros, fileHead{From: 1, Size: 64 << 20})},
		{name: "a frame without end", opened: named, file: as(other, fileHead{From: 1, Size: 13, Packed: 1 << 50})},
		{name: "larger than the release", opened: named, file: as(other, fileHead{From: 1, Size: maxDiffed})},
		{name: "a line that there is not", opened: named, file: as(other, fileHead{From: 1 << 30, Size: 13})},
		{name: "no base was named", file: as(other, fileHead{From: 1, Size: 13})},
		{name: "a base that was not offered", opened: func(m *filesOpened, frame []byte) []byte {
			sum := verify.DigestOf(nil)
			m.Base = sum[:]
			return frame
		}},
	}
}

func TestWrongDifferenceIsBlamedOnWhoSentIt(t *testing.T) {
	old, new := upgrade(t, "example.test/m")
	blamed(t, new, liarsOfDifferences(old), old)
}

// blamed checks that nobody has a release from a liar alone, that each liar is known as
// one, and that the release comes from an honest holder then.
func blamed(t *testing.T, r *release, liars []adversary, had ...*release) {
	t.Helper()
	w := newWorld(t, len(liars)+2)
	asker, honest := w.offices[0], w.offices[1]
	for _, o := range w.offices {
		for _, old := range had {
			o.admit(old)
		}
		if o != asker {
			o.admit(r)
		}
	}
	var bases []verify.Digest
	for _, old := range had {
		bases = append(bases, old.root)
	}
	for i, a := range liars {
		t.Run(a.name, func(t *testing.T) {
			bad := w.offices[i+2]
			a.takeOver(bad)
			if _, err := asker.fetchFrom(t.Context(), r, bases, bad.id()); err == nil {
				t.Fatal("the release came whole from a liar")
			}
			if len(asker.x.health.peers[bad.id()].lies) == 0 {
				t.Error("the liar is not named")
			}
		})
	}
	if _, err := asker.fetchFrom(t.Context(), r, bases, honest.id()); err != nil {
		t.Fatal(err)
	}
	asker.served(r)
	if lies := asker.x.health.peers[honest.id()].lies; len(lies) > 0 {
		t.Error("the honest holder is named as a liar")
	}
}

// What came as a difference is kept as a stream of this node's own, and handed on.
func TestDifferenceIsHandedOn(t *testing.T) {
	old, new := upgrade(t, "example.test/m")
	w := newWorld(t, 3)
	first, second, third := w.offices[0], w.offices[1], w.offices[2]
	first.admit(old)
	first.admit(new)
	second.admit(old)
	if _, err := second.fetchFrom(t.Context(), new, []verify.Digest{old.root}, first.id()); err != nil {
		t.Fatal(err)
	}
	if _, err := third.fetch(t.Context(), new, second.id(), first.id()); err != nil {
		t.Fatal(err)
	}
	third.served(new)
	var zips [2]bytes.Buffer
	for i := range zips {
		z, err := second.store.OpenZip(new.root)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.WriteTo(&zips[i]); err != nil {
			t.Fatal(err)
		}
		z.Close()
	}
	if !bytes.Equal(zips[0].Bytes(), zips[1].Bytes()) {
		t.Error("the same zip has other bytes the second time")
	}
}
