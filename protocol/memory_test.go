package protocol_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

// memory is an office that holds a few modules in memory, and that could fetch a
// few more.
type memory struct {
	files    map[string][]byte // by verify.Name
	far      map[string][]byte // to be fetched
	answers  map[string]string // mutable ones: M@query, M@list, M@latest, database/sub
	age      time.Duration
	errs     map[string]error // by module path or database
	index    []protocol.IndexEntry
	indexErr error
	stream   bool   // zips have a Stream too
	dir      string // if set, zips are files in it
}

const modified = 1709294400 // 2024-03-01T12:00:00Z

func newMemory(tb testing.TB) *memory {
	b := &memory{files: map[string][]byte{}, far: map[string][]byte{}, answers: map[string]string{}, errs: map[string]error{}}
	for _, m := range []module.Version{
		{Path: "example.test/mod", Version: "v1.0.0"},
		{Path: "example.test/mod", Version: "v1.1.0-rc.1"},
		{Path: "example.test/mod", Version: "v2.0.0+incompatible"},
		{Path: "example.test/mod", Version: "v0.0.0-20240301120000-0123456789ab"},
		{Path: "example.test/mod/v2", Version: "v2.0.0"},
		{Path: "example.test/Mixed/CASE", Version: "v1.0.0-RC1"},
		{Path: "gopkg.in/yaml.v3", Version: "v3.0.1"},
		{Path: "golang.org/toolchain", Version: "v0.0.1-go1.21.0.linux-amd64"},
	} {
		b.add(tb, b.files, m)
	}
	b.add(tb, b.far, module.Version{Path: "example.test/far", Version: "v1.0.0"})
	b.answers["example.test/mod@list"] = "v1.0.0\nv1.1.0-rc.1\nv2.0.0+incompatible\n"
	b.answers["example.test/empty@list"] = ""
	b.answers["example.test/mod@latest"] = `{"Version":"v1.0.0"}`
	for _, query := range []string{"main", "v1", "0123456789ab", "v2.0.0", "v1.0.0+meta", "a+b"} {
		b.answers["example.test/mod@"+query] = `{"Version":"v0.0.0-20240301120000-0123456789ab"}`
	}
	b.answers["sum.example.test/supported"] = ""
	b.answers["sum.example.test/latest"] = "go.sum database tree\n1\n"
	b.answers["sum.example.test/db/latest"] = "go.sum database tree\n2\n"
	b.answers["sum.example.test/lookup/example.test/!mixed@v1.0.0"] = "7\n"
	b.answers["sum.example.test/tile/8/0/000"] = "0123"
	b.answers["sum.example.test/tile/8/data/x001/234.p/5"] = "data"
	b.errs["example.test/gone"] = &protocol.Error{Status: http.StatusGone, Text: "not found: example.test/gone@v1.0.0.info: upstream proxy.example.test: 410 Gone\nremoved by its author"}
	b.errs["example.test/forbidden"] = &protocol.Error{Status: http.StatusForbidden, Text: "example.test/forbidden@v1.0.0.info: upstream proxy.example.test: 403 Forbidden"}
	b.errs["example.test/outage"] = fmt.Errorf("no office holds example.test/outage@v1.0.0: %w", protocol.Unavailable("upstream proxy.example.test: connection refused"))
	b.errs["example.test/slow"] = fmt.Errorf("example.test/slow: %w", context.DeadlineExceeded)
	b.errs["example.test/broken"] = errors.New("index of the store: checksum differs")
	b.errs["example.test/rude"] = protocol.Errorf(http.StatusBadGateway, "bad \x1b[31mbytes\x00 \xff\n\n  \nsecond\r\nthird\n4\n5\n6\n7\n8\n9\n")
	b.errs["example.test/wordy"] = protocol.Errorf(http.StatusBadGateway, "%s", strings.Repeat("ü", 1000))
	b.errs["example.test/silent"] = protocol.Errorf(http.StatusBadGateway, "")
	at := time.Unix(modified, 0).UTC()
	for i, v := range []string{"v1.0.0", "v1.1.0-rc.1"} {
		b.index = append(b.index, protocol.IndexEntry{Path: "example.test/mod", Version: v, Timestamp: at.Add(time.Duration(i) * time.Hour)})
	}
	return b
}

func (b *memory) add(tb testing.TB, files map[string][]byte, m module.Version) {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	f, err := w.Create(m.String() + "/go.mod")
	if err == nil {
		_, err = io.WriteString(f, "module "+m.Path+"\n")
	}
	if err := errors.Join(err, w.Close()); err != nil {
		tb.Fatal(err)
	}
	files[verify.Name{Module: m, Kind: verify.Info}.String()] = []byte(`{"Version":"` + m.Version + `"}`)
	files[verify.Name{Module: m, Kind: verify.Mod}.String()] = []byte("module " + m.Path + "\n")
	files[verify.Name{Module: m, Kind: verify.Zip}.String()] = buf.Bytes()
}

func (b *memory) File(_ context.Context, n verify.Name, o protocol.Options) (*protocol.Answer, error) {
	if err := b.errs[n.Module.Path]; err != nil {
		return nil, err
	}
	data, ok := b.files[n.String()]
	if !ok && !o.CachedOnly {
		data, ok = b.far[n.String()]
	}
	if !ok {
		return nil, protocol.NotFound("%s: upstream proxy.example.test: 404 Not Found", n)
	}
	a := &protocol.Answer{Source: "store", Modtime: time.Unix(modified, 0)}
	if n.Kind == verify.Zip {
		a.Content, a.ETag = bytes.NewReader(data), verify.DigestOf(data).Hex()
		if b.dir != "" {
			f, err := os.Open(filepath.Join(b.dir, n.Module.Version+".zip"))
			if err != nil {
				return nil, err
			}
			a.Content, a.Closer = f, f
		}
		if b.stream {
			a.Stream, a.Size = bytes.NewReader(data), int64(len(data))
		}
	} else {
		a.Data = data
	}
	return a, nil
}

func (b *memory) mutable(key, owner string) (*protocol.Answer, error) {
	if err := b.errs[owner]; err != nil {
		return nil, err
	}
	text, ok := b.answers[key]
	if !ok {
		return nil, protocol.NotFound("%s: nobody has it", key)
	}
	return &protocol.Answer{Data: []byte(text), Age: b.age, Source: "mesh"}, nil
}

func (b *memory) Query(_ context.Context, path, query string, _ protocol.Options) (*protocol.Answer, error) {
	return b.mutable(path+"@"+query, path)
}

func (b *memory) List(_ context.Context, path string, _ protocol.Options) (*protocol.Answer, error) {
	return b.mutable(path+"@list", path)
}

func (b *memory) Latest(_ context.Context, path string, _ protocol.Options) (*protocol.Answer, error) {
	return b.mutable(path+"@latest", path)
}

func (b *memory) SumDB(_ context.Context, name, sub string, _ protocol.Options) (*protocol.Answer, error) {
	return b.mutable(name+"/"+sub, name)
}

func (b *memory) Index(_ context.Context, since time.Time, limit int) iter.Seq2[protocol.IndexEntry, error] {
	return func(yield func(protocol.IndexEntry, error) bool) {
		if b.indexErr != nil {
			yield(protocol.IndexEntry{}, b.indexErr)
			return
		}
		for _, e := range b.index {
			if !e.Timestamp.Before(since) && !yield(e, nil) {
				return
			}
		}
	}
}

func (b *memory) Catalog(_ context.Context, token string, size int) ([]protocol.CatalogEntry, string, error) {
	var entries []protocol.CatalogEntry
	for _, e := range b.index {
		key := e.Path + "@" + e.Version
		if key <= token {
			continue
		}
		if len(entries) == size {
			last := entries[size-1]
			return entries, last.Module + "@" + last.Version, nil
		}
		entries = append(entries, protocol.CatalogEntry{Module: e.Path, Version: e.Version})
	}
	return entries, "", nil
}
