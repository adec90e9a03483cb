package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// Limits on denylists.
const (
	MaxOSVFile    = 64 << 20 // bytes of one file
	maxAdvisories = 500_000  // modules with a vulnerability, counted once for each
	maxSummary    = 200      // bytes that a client is shown
)

// Advisory is a known vulnerability of some versions of one module.
type Advisory struct {
	ID      string
	Summary string
	Module  string

	versions []string // exact ones, with their v
	ranges   [][]event
}

// event is a point in the order of versions from which on others are affected, or
// are not any more.
type event struct {
	version string // "" is before all
	starts  bool
	after   bool // the version itself is still affected
}

// Denylist knows vulnerabilities by module. The zero value and nil know none.
type Denylist struct {
	byModule map[string][]*Advisory
	count    int
}

// Len is how many advisories there are, one for each module that it names.
func (d *Denylist) Len() int {
	if d == nil {
		return 0
	}
	return d.count
}

// Lookup returns the advisories that a module version is affected by, in order of
// ID, but for those whose IDs are to be ignored.
func (d *Denylist) Lookup(path, version string, ignore []string) []*Advisory {
	if d == nil || !semver.IsValid(version) {
		return nil
	}
	var found []*Advisory
	for _, a := range d.byModule[path] {
		if !slices.Contains(ignore, a.ID) && a.affects(version) {
			found = append(found, a)
		}
	}
	return found
}

func (a *Advisory) affects(version string) bool {
	plain := strings.TrimSuffix(version, "+incompatible")
	if slices.Contains(a.versions, plain) {
		return true
	}
	return slices.ContainsFunc(a.ranges, func(events []event) bool {
		affected := false
		for _, e := range events { // sorted
			order := 1
			if e.version != "" {
				order = semver.Compare(version, e.version)
			}
			if order > 0 || order == 0 && !e.after {
				affected = e.starts
			}
		}
		return affected
	})
}

// osvEntry is what is read of an entry in OSV format; all else is passed over, as
// the format wants it.
type osvEntry struct {
	ID        string    `json:"id"`
	Summary   string    `json:"summary"`
	Withdrawn time.Time `json:"withdrawn"`
	Affected  []struct {
		Package struct {
			Ecosystem string `json:"ecosystem"`
			Name      string `json:"name"`
		} `json:"package"`
		Ranges []struct {
			Type   string              `json:"type"`
			Events []map[string]string `json:"events"`
		} `json:"ranges"`
		Versions []string `json:"versions"`
	} `json:"affected"`
}

// ErrOSV says that a text is no list of vulnerabilities.
var ErrOSV = errors.New("bad OSV file")

// ParseOSV reads entries in OSV format: one, several one after the other, or an
// array. Entries of other ecosystems than Go and withdrawn ones are left out.
func (d *Denylist) ParseOSV(text []byte) error {
	if len(text) > MaxOSVFile {
		return fmt.Errorf("%w: %d bytes, at most %d are read", ErrOSV, len(text), MaxOSVFile)
	}
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = d.addRaw(raw)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrOSV, err)
		}
	}
}

func (d *Denylist) addRaw(raw json.RawMessage) error {
	var list []osvEntry
	if len(raw) > 0 && raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
	} else {
		list = make([]osvEntry, 1)
		if err := json.Unmarshal(raw, &list[0]); err != nil {
			return err
		}
	}
	for i := range list {
		if err := d.add(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Denylist) add(e *osvEntry) error {
	if !e.Withdrawn.IsZero() {
		return nil
	}
	for _, affected := range e.Affected {
		if affected.Package.Ecosystem != "Go" {
			continue
		}
		if d.count++; d.count > maxAdvisories {
			return fmt.Errorf("more than %d advisories", maxAdvisories)
		}
		a := &Advisory{ID: e.ID, Summary: e.Summary[:min(len(e.Summary), maxSummary)], Module: affected.Package.Name}
		for _, v := range affected.Versions {
			a.versions = append(a.versions, withV(v))
		}
		for _, r := range affected.Ranges {
			if r.Type != "SEMVER" {
				continue
			}
			events, err := parseEvents(r.Events)
			if err != nil {
				return fmt.Errorf("%s: %w", e.ID, err)
			}
			a.ranges = append(a.ranges, events)
		}
		if d.byModule == nil {
			d.byModule = map[string][]*Advisory{}
		}
		d.byModule[a.Module] = append(d.byModule[a.Module], a)
	}
	return nil
}

// withV writes a version of OSV, which has no v, as Go does.
func withV(v string) string { return "v" + strings.TrimPrefix(v, "v") }

func parseEvents(list []map[string]string) ([]event, error) {
	var events []event
	for _, m := range list {
		for kind, v := range m {
			e := event{version: withV(v)}
			switch kind {
			case "introduced":
				e.starts = true
				if v == "0" {
					e.version = ""
				}
			case "fixed", "limit":
			case "last_affected":
				e.after = true
			default:
				continue
			}
			if e.version != "" && !semver.IsValid(e.version) {
				return nil, fmt.Errorf("event %s: %.60q is no version", kind, v)
			}
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b event) int {
		switch {
		case a.version == b.version:
			return 0
		case a.version == "":
			return -1
		case b.version == "":
			return 1
		}
		return semver.Compare(a.version, b.version)
	})
	return events, nil
}

// LoadOSV reads files in OSV format, and all *.json files below directories.
func LoadOSV(paths []string) (*Denylist, error) {
	d := new(Denylist)
	for _, path := range paths {
		err := walkOSV(path, func(file string, _ fs.FileInfo) error {
			text, err := readLimited(file, MaxOSVFile)
			if err == nil {
				err = d.ParseOSV(text)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, list := range d.byModule {
		slices.SortFunc(list, func(a, b *Advisory) int { return strings.Compare(a.ID, b.ID) })
	}
	return d, nil
}

// walkOSV calls each for a file, or for the *.json files below a directory. The
// indexes that vulnerability databases have beside their entries are left out.
func walkOSV(path string, each func(file string, info fs.FileInfo) error) error {
	return filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "index" && file != path {
				return fs.SkipDir
			}
			return nil
		}
		if file != path && filepath.Ext(file) != ".json" {
			return nil
		}
		info, err := os.Stat(file) // through links, as data that is mounted may be
		if err != nil {
			return err
		}
		return each(file, info)
	})
}

// readLimited reads a whole file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return text, err
}
