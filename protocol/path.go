package protocol

import (
	"net/http"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/meshproxy/meshproxy/verify"
)

// MaxTarget is the longest request target that is read, in bytes. The longest
// module path and version known are an order of magnitude shorter.
const MaxTarget = 4 << 10

// maxDatabaseName bounds the name of a checksum database, in bytes: that of a
// host name.
const maxDatabaseName = 253

// Op is what a request asks for.
type Op uint8

// The operations.
const (
	OpFile    Op = iota + 1 // Name: one immutable file of a module version
	OpQuery                 // Path, Query: .info of a branch, tag, hash or other revision
	OpList                  // Path: the versions of a module
	OpLatest                // Path: .info of a module's newest version
	OpSumDB                 // Database, Sub: a checksum database
	OpIndex                 // releases in order of arrival
	OpCatalog               // releases in order of name
)

var opNames = [...]string{OpFile: "file", OpQuery: "query", OpList: "list", OpLatest: "latest", OpSumDB: "sumdb", OpIndex: "index", OpCatalog: "catalog"}

// String is a word for logs and metrics; a request that no operation fits is "none".
func (o Op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return "none"
}

// Request is a parsed request target. All names in it are unescaped and valid.
type Request struct {
	Op         Op
	CachedOnly bool        // answer without a fetch
	Name       verify.Name // OpFile
	Path       string      // OpQuery, OpList, OpLatest: module path
	Query      string      // OpQuery: the revision; never a word of the go command's query language
	Database   string      // OpSumDB: name of the database, as in its key
	Sub        string      // OpSumDB: "supported", "latest", "lookup/M@V" or "tile/...", as the database itself is asked
}

const (
	cachedOnlyPrefix = "/cached-only/"
	sumdbPrefix      = "/sumdb/"
	versionInfix     = "/@v/"
	latestSuffix     = "/@latest"
)

// ParsePath reads the path of a request URL, percent-decoded as url.URL.Path
// is. It is pure. An error is an *Error: 414 for a path longer than MaxTarget,
// 400 for what cannot be a request of this protocol, and 404 for what could be
// but names nothing that exists.
func ParsePath(urlPath string) (Request, error) {
	if len(urlPath) > MaxTarget {
		return Request{}, Errorf(http.StatusRequestURITooLong, "bad request: target of %d bytes: at most %d are read", len(urlPath), MaxTarget)
	}
	switch urlPath {
	case "/index":
		return Request{Op: OpIndex}, nil
	case "/catalog":
		return Request{Op: OpCatalog}, nil
	}
	if rest, ok := strings.CutPrefix(urlPath, cachedOnlyPrefix); ok {
		req, err := parseNamed("/" + rest)
		req.CachedOnly = true
		return req, err
	}
	return parseNamed(urlPath)
}

// parseNamed reads a path that names a database or a module.
func parseNamed(p string) (Request, error) {
	if rest, ok := strings.CutPrefix(p, sumdbPrefix); ok {
		return parseSumDB(rest)
	}
	if escaped, rest, ok := strings.Cut(p, versionInfix); ok {
		return parseVersioned(escaped, rest)
	}
	if escaped, ok := strings.CutSuffix(p, latestSuffix); ok {
		mod, err := unescapePath(escaped)
		return Request{Op: OpLatest, Path: mod}, err
	}
	return Request{}, Errorf(http.StatusNotFound, "not found: %.200q is no path of the module download protocol", p)
}

func unescapePath(escaped string) (string, error) {
	mod, err := module.UnescapePath(strings.TrimPrefix(escaped, "/"))
	if err != nil || !strings.HasPrefix(escaped, "/") {
		return "", badPath(escaped, err)
	}
	return mod, nil
}

func badPath(escaped string, err error) error {
	if err == nil {
		return Errorf(http.StatusBadRequest, "bad request: %.200q does not begin with /", escaped)
	}
	return &Error{Status: http.StatusBadRequest, Text: "bad request: " + err.Error(), Err: err}
}

// parseVersioned reads what follows /@v/.
func parseVersioned(escapedPath, rest string) (Request, error) {
	mod, err := unescapePath(escapedPath)
	if err != nil {
		return Request{}, err
	}
	if rest == "list" {
		return Request{Op: OpList, Path: mod}, nil
	}
	ext := path.Ext(rest)
	kind := verify.Kind(strings.TrimPrefix(ext, "."))
	switch kind {
	case verify.Info, verify.Mod, verify.Zip:
	default:
		return Request{}, Errorf(http.StatusNotFound, "not found: %s has no file @v/%.200q: ask for list, or a version's .info, .mod or .zip", mod, rest)
	}
	version, err := module.UnescapeVersion(strings.TrimSuffix(rest, ext))
	if err != nil {
		return Request{}, &Error{Status: http.StatusBadRequest, Text: "bad request: " + err.Error(), Err: err}
	}
	if IsCanonical(mod, version) {
		return Request{Op: OpFile, Name: verify.Name{Module: module.Version{Path: mod, Version: version}, Kind: kind}}, nil
	}
	return parseQuery(mod, version, kind)
}

// IsCanonical reports whether version is one that files can be asked of: written
// canonically, and fit for the module path. All other revisions are queries.
func IsCanonical(mod, version string) bool {
	return module.CanonicalVersion(version) == version && module.Check(mod, version) == nil
}

// parseQuery accepts a revision that is no canonical version: there is only an
// .info of it. The words of the go command's own query language never reach a
// proxy, and through "direct" they would mean something else than a revision.
func parseQuery(mod, query string, kind verify.Kind) (Request, error) {
	if kind != verify.Info {
		return Request{}, Errorf(http.StatusNotFound, "not found: %s@%.200s: only a canonical version has a .%s; ask for the .info of %.200s first", mod, query, kind, query)
	}
	if err := CheckQuery(mod, query); err != nil {
		return Request{}, err
	}
	return Request{Op: OpQuery, Path: mod, Query: query}, nil
}

// CheckQuery reports whether query can be a revision of module mod: a valid file
// name, as the go command demands, no word of the go command's query language,
// and nothing that a program could take for an option. An error is an *Error.
func CheckQuery(mod, query string) error {
	if err := module.CheckPath(mod); err != nil {
		return &Error{Status: http.StatusBadRequest, Text: "bad request: " + err.Error(), Err: err}
	}
	switch query {
	case "latest", "upgrade", "patch", "none":
		return NotFound("%s@%s: %s is a query of the go command and no revision; the newest version is at @latest", mod, query, query)
	}
	_, err := module.EscapeVersion(query)
	if err != nil || strings.HasPrefix(query, "-") || strings.Contains(query, "@") || !isGraphic(query) {
		return Errorf(http.StatusBadRequest, "bad request: %s: %.200q is no revision", mod, query)
	}
	return nil
}

func isGraphic(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) < 0
}

// parseSumDB reads what follows /sumdb/. A database's name is a host name, and
// may be followed by a path: the first word of the protocol ends it.
func parseSumDB(rest string) (Request, error) {
	name, sub, ok := cutDatabase(rest)
	if !ok {
		return Request{}, Errorf(http.StatusNotFound, "not found: %.200q is no path of a checksum database: want NAME/supported, latest, lookup/M@V or tile/...", rest)
	}
	if err := checkDatabase(name); err != nil {
		return Request{}, err
	}
	if err := CheckSumDBPath(sub); err != nil {
		return Request{}, err
	}
	return Request{Op: OpSumDB, Database: name, Sub: sub}, nil
}

func cutDatabase(s string) (name, sub string, ok bool) {
	for i := strings.IndexByte(s, '/'); i >= 0 && i < len(s); {
		rest := s[i+1:]
		word, _, _ := strings.Cut(rest, "/")
		switch word {
		case "supported", "latest", "lookup", "tile":
			return s[:i], rest, true
		}
		next := strings.IndexByte(rest, '/')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return "", "", false
}

func checkDatabase(name string) error {
	bad := len(name) > maxDatabaseName || strings.IndexFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:/", r)
	}) >= 0
	for elem := range strings.SplitSeq(name, "/") {
		bad = bad || elem == "" || strings.HasPrefix(elem, ".")
	}
	if bad {
		return Errorf(http.StatusBadRequest, "bad request: %.200q is no name of a checksum database", name)
	}
	return nil
}

// CheckSumDBPath reports whether sub is what a checksum database can be asked:
// "supported", "latest", "lookup/M@V" of a valid module version (escaped), or
// "tile/..." as golang.org/x/mod/sumdb/tlog writes it. An error is an *Error.
func CheckSumDBPath(sub string) error {
	switch {
	case sub == "supported" || sub == "latest":
		return nil
	case strings.HasPrefix(sub, "lookup/"):
		return checkLookup(strings.TrimPrefix(sub, "lookup/"))
	case strings.HasPrefix(sub, "tile/"):
		if _, err := tlog.ParseTilePath(sub); err != nil {
			return &Error{Status: http.StatusBadRequest, Text: "bad request: " + err.Error(), Err: err}
		}
		return nil
	}
	return Errorf(http.StatusNotFound, "not found: a checksum database has no %.200q", sub)
}

func checkLookup(s string) error {
	escPath, escVersion, ok := strings.Cut(s, "@")
	if !ok {
		return Errorf(http.StatusBadRequest, "bad request: lookup of %.200q: want M@V", s)
	}
	mod, err := module.UnescapePath(escPath)
	if err == nil {
		var version string
		if version, err = module.UnescapeVersion(escVersion); err == nil && !IsCanonical(mod, version) {
			return Errorf(http.StatusBadRequest, "bad request: lookup of %s@%.200s: no canonical version of that module", mod, version)
		}
	}
	if err != nil {
		return &Error{Status: http.StatusBadRequest, Text: "bad request: " + err.Error(), Err: err}
	}
	return nil
}
