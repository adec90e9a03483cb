package verify

import (
	"bytes"
	"fmt"
	"sort"
	"strings"
)

// MaxListing is the largest listing that is read, in bytes. A zip of MaxZip
// bytes whose files are all empty with names of ordinary length stays below it.
const MaxListing = 64 << 20

// File is a line of a listing.
type File struct {
	Name string // as in the zip: "path@version/dir/file"; "go.mod" for a go.mod
	Sum  Digest // SHA-256 of the content
}

// Listing is the text under an h1 hash, parsed: the block that a module's root
// digest addresses. Files are in the order of the text, which is that of names.
type Listing struct {
	Files []File
}

// NewListing sorts files by name, as Hash1 of golang.org/x/mod/sumdb/dirhash does.
// It refuses names that Hash1 refuses, and duplicates.
func NewListing(files []File) (Listing, error) {
	sorted := append([]File(nil), files...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	for i, f := range sorted {
		if err := checkListed(sorted, i, f); err != nil {
			return Listing{}, err
		}
	}
	return Listing{Files: sorted}, nil
}

// ParseListing reads a listing and accepts exactly what Encode writes: any other
// text, even one with the same meaning, is an error.
func ParseListing(text []byte) (Listing, error) {
	if len(text) > MaxListing {
		return Listing{}, fmt.Errorf("listing of %d bytes: at most %d allowed", len(text), MaxListing)
	}
	files := make([]File, 0, bytes.Count(text, []byte{'\n'}))
	for len(text) > 0 {
		line, rest, ok := bytes.Cut(text, []byte{'\n'})
		if !ok {
			return Listing{}, fmt.Errorf("listing line %d: no newline at the end", len(files)+1)
		}
		sum, name, ok := strings.Cut(string(line), "  ")
		if !ok {
			return Listing{}, fmt.Errorf("listing line %d: want digest, two spaces, name", len(files)+1)
		}
		d, err := ParseHex(sum)
		if err != nil {
			return Listing{}, fmt.Errorf("listing line %d: %w", len(files)+1, err)
		}
		files = append(files, File{Name: name, Sum: d})
		if err := checkListed(files, len(files)-1, files[len(files)-1]); err != nil {
			return Listing{}, err
		}
		text = rest
	}
	return Listing{Files: files}, nil
}

func checkListed(files []File, i int, f File) error {
	if f.Name == "" || strings.Contains(f.Name, "\n") {
		return fmt.Errorf("listing line %d: file name %.200q is not allowed", i+1, f.Name)
	}
	if i > 0 && files[i-1].Name >= f.Name {
		return fmt.Errorf("listing line %d: %.200q does not sort after %.200q", i+1, f.Name, files[i-1].Name)
	}
	return nil
}

// Encode writes the text that Hash1 hashes: for each file
// "<hex digest>  <name>\n".
func (l Listing) Encode() []byte {
	size := 0
	for _, f := range l.Files {
		size += 2*len(f.Sum) + 3 + len(f.Name)
	}
	text := make([]byte, 0, size)
	for _, f := range l.Files {
		text = fmt.Appendf(text, "%x  %s\n", f.Sum[:], f.Name)
	}
	return text
}

// Digest is the listing's h1.
func (l Listing) Digest() Digest { return DigestOf(l.Encode()) }

// DigestMod is the h1 of a go.mod file, as go.sum has it on its "/go.mod" lines:
// that of a listing whose only file is called go.mod.
func DigestMod(gomod []byte) Digest {
	return Listing{Files: []File{{Name: "go.mod", Sum: DigestOf(gomod)}}}.Digest()
}
