package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

// Limits on a filter file.
const (
	MaxFilter   = 8 << 20 // bytes
	maxRules    = 100_000
	maxPath     = 1 << 10 // bytes of a path in a rule
	maxSegments = 64      // of such a path
)

// Rule is what a line of a filter file has done with a module.
type Rule byte

// The rules, as they are written at the beginning of a line.
const (
	Include Rule = '+' // served as usual
	Exclude Rule = '-' // refused
	Direct  Rule = 'D' // not kept here: clients are sent to the upstream
)

// String names the rule for people.
func (r Rule) String() string {
	switch r {
	case Include:
		return "included"
	case Exclude:
		return "excluded"
	case Direct:
		return "direct"
	}
	return fmt.Sprintf("rule %q", byte(r))
}

// Decision is a rule, and the line that it stands on.
type Decision struct {
	Rule Rule
	Line int    // from 1; 0 if no line decides, and what nothing excludes is included
	Text string // of the line, without comment
}

// Filter is a parsed filter file. It is immutable. The zero value includes all.
type Filter struct {
	root     filterNode
	warnings []string
}

// filterNode is one element of a path, and the rule that ends there.
type filterNode struct {
	next  map[string]*filterNode
	rule  Rule // 0: no rule ends here
	line  int
	text  string
	quals []qualifier // the rule holds for versions that one of them fits; none: for all
}

// ErrFilter says that a text is no filter file.
var ErrFilter = errors.New("bad filter file")

// ParseFilter reads a filter file. Each line is a sign, "+", "-" or "D", then a
// module path, then qualifiers of versions with commas between them. A rule holds
// for the path and all below it; without a path it is the default. "#" begins a
// comment. Of several lines for one path the last one counts. An error names the
// line and matches ErrFilter.
func ParseFilter(text []byte) (*Filter, error) {
	if len(text) > MaxFilter {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrFilter, len(text), MaxFilter)
	}
	f := new(Filter)
	rules, number := 0, 0
	for line := range strings.Lines(string(text)) {
		number++
		fields := lineFields(line)
		if len(fields) == 0 {
			continue
		}
		if rules++; rules > maxRules {
			return nil, fmt.Errorf("%w: more than %d rules", ErrFilter, maxRules)
		}
		if err := f.addLine(number, fields); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrFilter, number, err)
		}
	}
	return f, nil
}

// lineFields splits a line at its spaces and drops what follows a "#".
func lineFields(line string) []string {
	fields := strings.Fields(line)
	if i := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "#") }); i >= 0 {
		fields = fields[:i]
	}
	return fields
}

func (f *Filter) addLine(number int, fields []string) error {
	if len(fields[0]) != 1 || !strings.Contains("+-D", fields[0]) {
		return fmt.Errorf("it begins with %.40q: want +, - or D", fields[0])
	}
	if len(fields) > 3 {
		return fmt.Errorf("%d words: want a sign, a module path and versions, like: + example.com/mod v1,~v2.3.4", len(fields))
	}
	n := filterNode{rule: Rule(fields[0][0]), line: number, text: strings.Join(fields, " ")}
	path := ""
	if len(fields) > 1 {
		path = fields[1]
	}
	if len(fields) > 2 {
		for _, text := range strings.Split(fields[2], ",") {
			q, err := parseQualifier(text)
			if err != nil {
				f.warn(number, err.Error())
			}
			n.quals = append(n.quals, q)
		}
	}
	at, err := f.reach(path)
	if err != nil {
		return err
	}
	if at.rule != 0 {
		f.warn(number, fmt.Sprintf("it replaces line %d (%s): of several lines for one path the last one counts", at.line, at.text))
	}
	n.next = at.next
	*at = n
	return nil
}

// maxWarnings bounds what is remembered of a file that is wrong on every line.
const maxWarnings = 100

func (f *Filter) warn(number int, text string) {
	if len(f.warnings) < maxWarnings {
		f.warnings = append(f.warnings, fmt.Sprintf("line %d: %s", number, text))
	}
}

// Warnings lists what of the file is without effect, though it is no error.
func (f *Filter) Warnings() []string { return f.warnings }

// reach returns the node of a path, which it makes if there is none.
func (f *Filter) reach(path string) (*filterNode, error) {
	if len(path) > maxPath || strings.Count(path, "/") >= maxSegments {
		return nil, fmt.Errorf("path of %d bytes: at most %d and %d elements", len(path), maxPath, maxSegments)
	}
	at := &f.root
	for _, s := range segments(path) {
		if at.next == nil {
			at.next = map[string]*filterNode{}
		}
		if at.next[s] == nil {
			at.next[s] = new(filterNode)
		}
		at = at.next[s]
	}
	return at, nil
}

func segments(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// way returns the nodes from the root to the longest path that leads to a module.
func (f *Filter) way(path string) []*filterNode {
	nodes := []*filterNode{&f.root}
	at := &f.root
	for _, s := range segments(path) {
		if at = at.next[s]; at == nil {
			break
		}
		nodes = append(nodes, at)
	}
	return nodes
}

// Decide returns what the file says about a module version: the rule with the
// longest path that leads to the module and holds for the version.
func (f *Filter) Decide(path, version string) Decision {
	for _, n := range slices.Backward(f.way(path)) {
		if n.rule != 0 && n.fits(version) {
			return n.decision()
		}
	}
	return Decision{Rule: Include}
}

// Module returns what holds for a module whichever version is asked for: Exclude
// only if no version can be had.
func (f *Filter) Module(path string) Decision {
	some := Decision{} // the longest qualified rule that is no exclusion
	for _, n := range slices.Backward(f.way(path)) {
		switch {
		case n.rule == 0:
		case len(n.quals) == 0:
			if some.Rule != 0 && n.rule == Exclude {
				return some
			}
			return n.decision()
		case n.rule != Exclude && some.Rule == 0:
			some = n.decision()
		}
	}
	return Decision{Rule: Include}
}

func (n *filterNode) decision() Decision { return Decision{n.rule, n.line, n.text} }

func (n *filterNode) fits(version string) bool {
	return len(n.quals) == 0 || slices.ContainsFunc(n.quals, func(q qualifier) bool { return q.fits(version) })
}

// qualifier says for which versions a rule holds.
type qualifier struct {
	op   byte   // '~', '^', '<'; 0: equal or below; '*': any with this prefix; '!': none
	text string // the version, or its prefix, with its v
}

// parseQualifier reads one qualifier: v1, v1.2, v1.2.* (those and all below),
// v1.2.3 (that one), ~v1.2.3, ^v1.2.3, <v1.2.3, whose v may be left out. One that
// can fit nothing comes with an error.
func parseQualifier(text string) (qualifier, error) {
	none := qualifier{op: '!'}
	if text == "" {
		return none, errors.New("an empty version fits nothing")
	}
	if strings.IndexByte("~^<", text[0]) >= 0 {
		v := text[1:]
		if !strings.HasPrefix(v, "v") {
			v = "v" + v
		}
		if !semver.IsValid(v) || strings.Count(semver.Canonical(v), ".") < 2 || v != semver.Canonical(v) {
			return none, fmt.Errorf("%.60q fits nothing: want three numbers after the %c, like %cv1.2.3", text, text[0], text[0])
		}
		return qualifier{text[0], v}, nil
	}
	v := strings.TrimRight(text, "*")
	if v == "" {
		return qualifier{op: '*', text: "v"}, nil
	}
	bare := strings.TrimSuffix(v, ".")
	if !strings.HasPrefix(bare, "v") && semver.IsValid("v"+bare) {
		v, bare = "v"+v, "v"+bare
	}
	if !semver.IsValid(bare) {
		return none, fmt.Errorf("%.60q fits nothing: want a version like v1, v1.2 or v1.2.3", text)
	}
	if v == bare && len(v)+1 == len(text) && strings.Count(v, ".") >= 2 {
		return qualifier{op: '*', text: v}, nil // v1.2.3*
	}
	return qualifier{text: bare}, nil
}

func (q qualifier) fits(version string) bool {
	switch q.op {
	case '!':
		return false
	case '*':
		return strings.HasPrefix(version, q.text)
	case 0:
		return version == q.text || version == q.text+"+incompatible" ||
			strings.Count(q.text, ".") < 2 && strings.HasPrefix(version, q.text+".")
	}
	if !semver.IsValid(version) {
		return false
	}
	order := semver.Compare(version, q.text)
	switch q.op {
	case '~':
		return order >= 0 && semver.MajorMinor(version) == semver.MajorMinor(q.text)
	case '^':
		return order >= 0 && semver.Major(version) == semver.Major(q.text)
	}
	return order < 0 // '<'
}
