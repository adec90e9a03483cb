package protocol

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// MaxList is the largest list of versions that is read, in bytes.
const MaxList = 4 << 20

// Versions is a list as an upstream gave it, cleaned: canonical versions that fit
// the module, each once, in semver order.
type Versions struct {
	Tagged []string // what clients are told: no pseudo-versions
	Pseudo []string // kept aside, to tell the newest version of a module without tags
}

// ParseList reads a list of versions of mod. As the go command does, it takes
// the first field of each line and passes over what is no version; it never
// fails.
func ParseList(mod string, text []byte) Versions {
	var v Versions
	for line := range strings.Lines(string(text[:min(len(text), MaxList)])) {
		if f := strings.Fields(line); len(f) > 0 {
			v.add(mod, f[0])
		}
	}
	v.sort()
	return v
}

// NewVersions cleans versions of mod as ParseList does.
func NewVersions(mod string, versions []string) Versions {
	var v Versions
	for _, s := range versions {
		v.add(mod, s)
	}
	v.sort()
	return v
}

func (v *Versions) add(mod, version string) {
	switch {
	case !IsCanonical(mod, version):
	case module.IsPseudoVersion(version):
		v.Pseudo = append(v.Pseudo, version)
	default:
		v.Tagged = append(v.Tagged, version)
	}
}

func (v *Versions) sort() {
	for _, list := range []*[]string{&v.Tagged, &v.Pseudo} {
		slices.SortFunc(*list, semver.Compare)
		*list = slices.Compact(*list)
	}
}

// EncodeList writes versions one a line, as /M/@v/list is served.
func EncodeList(versions []string) []byte {
	n := 0
	for _, s := range versions {
		n += len(s) + 1
	}
	text := make([]byte, 0, n)
	for _, s := range versions {
		text = append(append(text, s...), '\n')
	}
	return text
}

// Latest returns what the go command takes for @latest: the highest release,
// else the highest pre-release, else the newest pseudo-version by its time;
// empty if there is no version at all. It prefers a version without
// +incompatible, as the go command does where that version has a go.mod: clients
// ask for @latest only where a list has nothing for them.
func (v Versions) Latest() string {
	compatible := slices.DeleteFunc(slices.Clone(v.Tagged), func(s string) bool { return semver.Build(s) == "+incompatible" })
	for _, list := range [][]string{compatible, v.Tagged} {
		if best := highest(list); best != "" {
			return best
		}
	}
	var newest string
	var at time.Time
	for _, s := range v.Pseudo {
		if t, err := module.PseudoVersionTime(s); err == nil && !t.Before(at) {
			newest, at = s, t
		}
	}
	return newest
}

// highest returns the last release of a sorted list, or its last pre-release.
func highest(sorted []string) string {
	for _, s := range slices.Backward(sorted) {
		if semver.Prerelease(s) == "" {
			return s
		}
	}
	if len(sorted) == 0 {
		return ""
	}
	return sorted[len(sorted)-1]
}

// RevInfo is what this project reads of an .info file. The file itself is
// passed on byte by byte, with whatever else it holds.
type RevInfo struct {
	Version string
	Time    time.Time `json:",omitzero"`
}

// ParseInfo reads the .info that answers a request for rev of mod, where rev is
// a version, any other revision, or empty for @latest. It refuses what the go
// command refuses: text that is no JSON, and for a canonical version that fits
// mod any version but that one. For other revisions the version must be one that
// files can be asked of.
func ParseInfo(mod, rev string, text []byte) (RevInfo, error) {
	var info RevInfo
	if err := json.Unmarshal(text, &info); err != nil {
		return RevInfo{}, fmt.Errorf("info of %s@%s: %w", mod, rev, err)
	}
	if info.Version != rev && IsCanonical(mod, rev) {
		return RevInfo{}, fmt.Errorf("info of %s@%s: it is for version %.200q instead", mod, rev, info.Version)
	}
	if !IsCanonical(mod, info.Version) {
		return RevInfo{}, fmt.Errorf("info of %s@%s: %.200q is no canonical version of that module", mod, rev, info.Version)
	}
	return info, nil
}
