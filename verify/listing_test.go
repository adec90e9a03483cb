package verify

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"pgregory.net/rapid"
)

// A listing's digest is what the go command computes over the same files.
func TestListingDigestIsHash1(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		content := rapid.MapOf(rapid.StringMatching(`[ -~äß]{1,20}`), rapid.String()).Draw(rt, "files")
		var files []File
		var names []string
		for name, data := range content {
			files = append(files, File{name, DigestOf([]byte(data))})
			names = append(names, name)
		}
		want, err := dirhash.Hash1(names, func(name string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(content[name])), nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		l, err := NewListing(files)
		if err != nil {
			rt.Fatal(err)
		}
		if got := l.Digest().H1(); got != want {
			rt.Fatalf("got %s, want %s", got, want)
		}
		again, err := ParseListing(l.Encode())
		if err != nil || !bytes.Equal(again.Encode(), l.Encode()) {
			rt.Fatalf("got %v, %v back", again, err)
		}
	})
}

func TestDigestModIsHash1(t *testing.T) {
	data := "module example.test/x\n"
	want, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(data)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := DigestMod([]byte(data)).H1(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestListingsThatAreRefused(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for name, text := range map[string]string{
		"no newline":         sum + "  a",
		"one space":          sum + " a\n",
		"no name":            sum + "  \n",
		"capital digits":     strings.ToUpper(sum) + "  a\n",
		"short digest":       sum[:62] + "  a\n",
		"not hexadecimal":    strings.Repeat("xy", 32) + "  a\n",
		"wrong order":        sum + "  b\n" + sum + "  a\n",
		"the same twice":     sum + "  a\n" + sum + "  a\n",
		"blank line":         sum + "  a\n\n",
		"longer than it may": strings.Repeat("x", MaxListing+1),
	} {
		t.Run(name, func(t *testing.T) {
			if l, err := ParseListing([]byte(text)); err == nil {
				t.Errorf("got %v", l)
			}
		})
	}
	for name, files := range map[string][]File{
		"newline in a name": {{Name: "a\nb"}}, "empty name": {{}}, "twice": {{Name: "a"}, {Name: "b"}, {Name: "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			if l, err := NewListing(files); err == nil {
				t.Errorf("got %v", l)
			}
		})
	}
}

func TestDigestSpellings(t *testing.T) {
	d := DigestOf([]byte("x"))
	if got, err := ParseH1(d.H1()); err != nil || got != d {
		t.Errorf("H1: %v, %v", got, err)
	}
	if got, err := ParseHex(d.Hex()); err != nil || got != d {
		t.Errorf("Hex: %v, %v", got, err)
	}
	c := d.CID()
	mh, err := multihash.Decode(c.Hash())
	if err != nil {
		t.Fatal(err)
	}
	if c.Version() != 1 || c.Type() != cid.Raw || mh.Code != multihash.SHA2_256 || !bytes.Equal(mh.Digest, d[:]) {
		t.Errorf("CID %v: want version 1, codec raw, sha2-256 of the digest", c)
	}
}

func TestNameCheck(t *testing.T) {
	name := func(path, version string, k Kind) Name {
		return Name{module.Version{Path: path, Version: version}, k}
	}
	for what, c := range map[string]struct {
		n  Name
		ok bool
	}{
		"plain":                  {name("example.test/x", "v1.2.3", Zip), true},
		"pseudo-version":         {name("example.test/x", "v0.0.0-20240229120000-abcdefabcdef", Info), true},
		"incompatible":           {name("example.test/x", "v2.0.0+incompatible", Mod), true},
		"later major":            {name("example.test/x/v2", "v2.0.0", Mod), true},
		"later major missing":    {name("example.test/x", "v2.0.0", Mod), false},
		"short version":          {name("example.test/x", "v1.2", Mod), false},
		"build metadata":         {name("example.test/x", "v1.2.3+meta", Mod), false},
		"branch":                 {name("example.test/x", "main", Info), false},
		"no dot in the host":     {name("example/x", "v1.2.3", Mod), false},
		"path that climbs":       {name("example.test/../x", "v1.2.3", Mod), false},
		"list is no such file":   {name("example.test/x", "v1.2.3", "list"), false},
		"ziphash is none either": {name("example.test/x", "v1.2.3", "ziphash"), false},
	} {
		t.Run(what, func(t *testing.T) {
			if err := c.n.Check(); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}
