package protocol_test

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/protocol"
)

// FuzzParsePath checks that the grammar never panics, refuses with 400, 404 or
// 414 only, and that what it accepts has valid names that lead to the same
// request when they are written down again.
func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"/index", "/catalog", "/cached-only/a.b/@latest", "/a.b/!c/@v/list", "/a.b/@v/v1.0.0.zip", "/a.b/@v/main.info", "/a.b/v2/@v/v2.0.0.mod",
		"/sumdb/a.b/c/tile/8/0/x001/002.p/3", "/sumdb/a.b/lookup/a.b@v1.0.0", "/sumdb/a.b/supported", "/../@v/list", "/a.b/@v/latest.info", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		req, err := protocol.ParsePath(path)
		if err != nil {
			switch status := protocol.StatusOf(err); status {
			case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestURITooLong:
			default:
				t.Fatalf("%q: status %d", path, status)
			}
			if text := protocol.ErrorText(err.Error()); text == "" {
				t.Fatalf("%q: refused without a word", path)
			}
			return
		}
		again, err := protocol.ParsePath(write(t, req))
		if err != nil || again != req {
			t.Fatalf("%q is %+v, and again %+v, %v", path, req, again, err)
		}
	})
}

// write is the inverse of ParsePath.
func write(t *testing.T, req protocol.Request) string {
	var path string
	switch req.Op {
	case protocol.OpIndex:
		return "/index"
	case protocol.OpCatalog:
		return "/catalog"
	case protocol.OpFile:
		if err := req.Name.Check(); err != nil {
			t.Fatal(err)
		}
		path = escaped(t, req.Name.Module.Path) + "/@v/" + escapedVersion(t, req.Name.Module.Version) + "." + string(req.Name.Kind)
	case protocol.OpQuery:
		path = escaped(t, req.Path) + "/@v/" + escapedVersion(t, req.Query) + ".info"
	case protocol.OpList:
		path = escaped(t, req.Path) + "/@v/list"
	case protocol.OpLatest:
		path = escaped(t, req.Path) + "/@latest"
	case protocol.OpSumDB:
		path = "sumdb/" + req.Database + "/" + req.Sub
	default:
		t.Fatalf("accepted as %s", req.Op)
	}
	if req.CachedOnly {
		path = "cached-only/" + path
	}
	return "/" + path
}

func escaped(t *testing.T, path string) string {
	s, err := module.EscapePath(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func escapedVersion(t *testing.T, version string) string {
	s, err := module.EscapeVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func FuzzErrorText(f *testing.F) {
	for _, seed := range []string{"", "a\n\nb", "\x1b[0m", "\xff", strings.Repeat("ü\n", 400), strings.Repeat("x", 700), " \t\r\n", "\u202e", "a\u2028b", "a\u0085b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := protocol.ErrorText(s)
		if shown := goShows(text); shown != strings.ReplaceAll(text, "\n", "\n\t") {
			t.Fatalf("%q: of %q the go command shows %q", s, text, shown)
		}
		if again := protocol.ErrorText(text); again != text {
			t.Fatalf("%q: %q becomes %q", s, text, again)
		}
	})
}
