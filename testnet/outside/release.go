package outside

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
)

// Release is one version of a module: the three files that a proxy serves.
type Release struct {
	module.Version
	Time time.Time
	Info []byte // JSON as a proxy serves it
	Mod  []byte // go.mod; for a module without one, what the go command makes up

	zip func() ([]byte, error)
	h1  func() (string, error)
}

// NewRelease makes a release of files, named by their paths below the module's
// root. Without a go.mod among them the release is that of a module that predates
// modules. The zip is packed when it is first asked for.
func NewRelease(m module.Version, at time.Time, files map[string][]byte) (*Release, error) {
	if err := module.Check(m.Path, m.Version); err != nil {
		return nil, err
	}
	info, err := json.Marshal(map[string]any{"Version": m.Version, "Time": at.UTC()})
	if err != nil {
		return nil, err
	}
	mod, ok := files["go.mod"]
	if !ok {
		mod = fmt.Appendf(nil, "module %s\n", m.Path)
	}
	pack := sync.OnceValues(func() ([]byte, error) { return pack(m, files) })
	hash := sync.OnceValues(func() (string, error) {
		data, err := pack()
		if err != nil {
			return "", err
		}
		return HashZip(data)
	})
	return &Release{Version: m, Time: at, Info: info, Mod: mod, zip: pack, h1: hash}, nil
}

// Zip is the module's zip, the same bytes each time.
func (r *Release) Zip() ([]byte, error) { return r.zip() }

// H1 is the hash of the zip as go.sum has it.
func (r *Release) H1() (string, error) { return r.h1() }

// ModH1 is the hash of the go.mod as go.sum has it.
func (r *Release) ModH1() (string, error) { return HashMod(r.Mod) }

// HashMod is the h1 hash of a go.mod.
func HashMod(mod []byte) (string, error) {
	return dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(mod)), nil
	})
}

// HashZip is the h1 hash of a module zip.
func HashZip(data []byte) (string, error) {
	zr, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return "", err
	}
	files := make(map[string]*zip.File, len(zr.File))
	names := make([]string, 0, len(zr.File))
	for _, f := range zr.File {
		files[f.Name] = f
		names = append(names, f.Name)
	}
	return dirhash.Hash1(names, func(name string) (io.ReadCloser, error) { return files[name].Open() })
}

func pack(m module.Version, files map[string][]byte) ([]byte, error) {
	list := make([]modzip.File, 0, len(files))
	for name, content := range files {
		list = append(list, memFile{name, content})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path() < list[j].Path() })
	var buf bytes.Buffer
	if err := modzip.Create(&buf, m, list); err != nil {
		return nil, fmt.Errorf("pack %s: %w", m, err)
	}
	return buf.Bytes(), nil
}

// memFile is a file in memory, as modzip.Create wants one.
type memFile struct {
	name    string
	content []byte
}

func (f memFile) Path() string                 { return f.name }
func (f memFile) Lstat() (fs.FileInfo, error)  { return memInfo{f}, nil }
func (f memFile) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.content)), nil }

type memInfo struct{ f memFile }

func (i memInfo) Name() string       { return path.Base(i.f.name) }
func (i memInfo) Size() int64        { return int64(len(i.f.content)) }
func (i memInfo) Mode() fs.FileMode  { return 0o644 }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return false }
func (i memInfo) Sys() any           { return nil }
