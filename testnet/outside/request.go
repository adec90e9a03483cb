package outside

import (
	"net/http"
	"strings"

	"golang.org/x/mod/module"
)

// Kind is what a request to an upstream is for.
type Kind string

// The kinds of request, by endpoint of the module download protocol.
const (
	List      Kind = "list"
	Info      Kind = "info"  // of a canonical version
	Query     Kind = "query" // .info of a branch, tag, hash or short version
	Mod       Kind = "mod"
	Zip       Kind = "zip"
	Latest    Kind = "latest"
	Supported Kind = "sumdb/supported"
	TreeHead  Kind = "sumdb/latest"
	Lookup    Kind = "sumdb/lookup"
	Tile      Kind = "sumdb/tile"
	Other     Kind = "other"
)

// Request is one request that an upstream or a database saw.
type Request struct {
	Kind    Kind
	Method  string
	Path    string // as sent, unescaped once
	Module  string // unescaped module path, or empty
	Version string // unescaped version or query, or empty
	Header  http.Header
	Status  int   // what was answered; 0 when the connection was cut before
	Bytes   int64 // of the body that was sent
}

// Classify says what an HTTP request asks for. What is no request of the protocol
// is Other.
func Classify(req *http.Request) Request {
	r := Request{Kind: Other, Method: req.Method, Path: req.URL.Path, Header: req.Header.Clone()}
	rest := strings.TrimPrefix(req.URL.Path, "/")
	if after, ok := strings.CutPrefix(rest, "sumdb/"); ok {
		_, endpoint, _ := strings.Cut(after, "/")
		r.Kind = sumdbKind(endpoint)
		return r
	}
	if escaped, ok := strings.CutSuffix(rest, "/@latest"); ok {
		return r.module(Latest, escaped, "")
	}
	escaped, file, ok := strings.Cut(rest, "/@v/")
	if !ok {
		if k := sumdbKind(rest); k != Other {
			r.Kind = k
		}
		return r
	}
	if file == "list" {
		return r.module(List, escaped, "")
	}
	dot := strings.LastIndex(file, ".")
	if dot < 0 {
		return r
	}
	switch k := Kind(file[dot+1:]); k {
	case Info, Mod, Zip:
		return r.module(k, escaped, file[:dot])
	}
	return r
}

// module fills in the names, leaving the request Other where they are not valid.
func (r Request) module(kind Kind, escapedPath, escapedVersion string) Request {
	path, err := module.UnescapePath(escapedPath)
	if err != nil {
		return r
	}
	version := ""
	if escapedVersion != "" {
		if version, err = module.UnescapeVersion(escapedVersion); err != nil {
			return r
		}
		if kind == Info && module.Check(path, version) != nil {
			kind = Query
		}
	}
	r.Kind, r.Module, r.Version = kind, path, version
	return r
}

func sumdbKind(endpoint string) Kind {
	switch {
	case endpoint == "supported":
		return Supported
	case endpoint == "latest":
		return TreeHead
	case strings.HasPrefix(endpoint, "lookup/"):
		return Lookup
	case strings.HasPrefix(endpoint, "tile/"):
		return Tile
	}
	return Other
}
