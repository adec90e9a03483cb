package modzip

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// MaxFiles is the largest number of entries in a module zip. The largest known
// modules have about 60,000.
const MaxFiles = 1 << 17

const (
	// maxName is the longest name of an entry, in bytes: no system takes a longer path.
	maxName = 4 << 10
	// maxPlaces bounds the files and directories together, or a few thousand names that
	// are deep would take all memory.
	maxPlaces = 4 * MaxFiles
)

// Sizes of single files, from golang.org/x/mod/zip.
const (
	maxGoMod   = verify.MaxMod
	maxLicense = 16 << 20
)

// CheckNames reports whether names may be the entries of the zip of m: all below
// "path@version/", valid on every file system, no two the same or the same but
// for case, go.mod only at the root. Names that end in a slash are directories.
func CheckNames(m module.Version, names []string) error {
	if err := module.Check(m.Path, m.Version); err != nil {
		return err
	}
	if len(names) > MaxFiles {
		return fmt.Errorf("%d files: at most %d allowed: %w", len(names), MaxFiles, ErrBadFile)
	}
	c := nameSet{prefix: m.Path + "@" + m.Version + "/", folded: make(map[string]place, len(names))}
	for _, name := range names {
		if err := c.check(name); err != nil {
			return fmt.Errorf("file %.300q: %w: %w", name, err, ErrBadFile)
		}
	}
	return nil
}

// CheckListing is CheckNames for a listing that came from a peer; a directory's
// content must be empty.
func CheckListing(m module.Version, l verify.Listing) error {
	names := make([]string, len(l.Files))
	for i, f := range l.Files {
		names[i] = f.Name
		if IsDir(f.Name) && f.Sum != emptySum {
			return fmt.Errorf("file %.300q: a directory with content: %w", f.Name, ErrBadFile)
		}
	}
	return CheckNames(m, names)
}

var emptySum = verify.DigestOf(nil)

// IsDir reports whether an entry of this name is a directory, which has no
// content to store.
func IsDir(name string) bool { return strings.HasSuffix(name, "/") }

type place struct {
	name string
	dir  bool
	own  bool // has an entry of its own, rather than being a parent of one
}

type nameSet struct {
	prefix string
	folded map[string]place // by name without case
}

func (c *nameSet) check(full string) error {
	if len(full) > maxName {
		return fmt.Errorf("name of %d bytes: at most %d allowed", len(full), maxName)
	}
	name, ok := strings.CutPrefix(full, c.prefix)
	if !ok {
		return fmt.Errorf("not below %q", c.prefix)
	}
	dir := strings.HasSuffix(full, "/")
	name = strings.TrimSuffix(name, "/")
	if name == "" { // the module's own directory
		_, err := c.add("", "", true, true)
		return err
	}
	if path.Clean(name) != name {
		return fmt.Errorf("path is not clean")
	}
	if err := module.CheckFilePath(name); err != nil {
		return err
	}
	if base := path.Base(name); !dir && strings.EqualFold(base, "go.mod") && name != "go.mod" {
		return fmt.Errorf("go.mod must be in the module's root and in lower case")
	}
	// Names may be deep: each is folded once, and a directory looked at once.
	key := fold(name)
	known, err := c.add(name, key, dir, true)
	for err == nil && !known && strings.Contains(name, "/") {
		name, key = name[:strings.LastIndexByte(name, '/')], key[:strings.LastIndexByte(key, '/')]
		known, err = c.add(name, key, true, false)
	}
	return err
}

// add notes a file or a directory; key is its name without case. It reports whether it
// is known, and with it the directories above it.
func (c *nameSet) add(name, key string, dir, own bool) (known bool, err error) {
	old, known := c.folded[key]
	switch {
	case !known && len(c.folded) >= maxPlaces:
		return false, fmt.Errorf("more than %d files and directories", maxPlaces)
	case !known:
		c.folded[key] = place{name: name, dir: dir, own: own}
	case old.name != name:
		return true, fmt.Errorf("differs from %.300q in case only", old.name)
	case old.dir != dir:
		return true, fmt.Errorf("is both a file and a directory")
	case old.own && own:
		return true, fmt.Errorf("occurs twice")
	case own:
		old.own = true
		c.folded[key] = old
	}
	return known, nil
}

// fold maps strings that are equal under Unicode case folding, and only those,
// to the same string.
func fold(s string) string {
	ascii := true
	for i := 0; i < len(s); i++ {
		if b := s[i]; b >= utf8.RuneSelf || 'A' <= b && b <= 'Z' {
			ascii = false
			break
		}
	}
	if ascii {
		return s
	}
	return strings.Map(func(r rune) rune {
		low := r // the smallest rune of the orbit, but lower case for ASCII letters
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			low = min(low, next)
		}
		if 'A' <= low && low <= 'Z' {
			low += 'a' - 'A'
		}
		return low
	}, s)
}
