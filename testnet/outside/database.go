package outside

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
)

// Database is a checksum database with a key of its own, over the modules that a
// function knows the hashes of. It serves the database's own endpoints (/latest,
// /lookup/, /tile/) and, below /sumdb/<name>/, those that a proxy serves for it.
// It hashes a module when it is first asked for it and then never changes its
// mind, as the real one.
type Database struct {
	name, key string
	signer    string // the private half of key
	hashes    Hashes
	ops       *sumdb.TestServer
	server    *sumdb.Server

	mu     sync.Mutex
	lies   map[module.Version]string // zip hashes to state instead of the true ones
	filled int                       // records that Fill has added
}

// Hashes says the h1 hashes of a module's zip and go.mod.
type Hashes func(m module.Version) (zip, mod string, err error)

// NewDatabase makes a database called name, with a fresh key, over hashes.
func NewDatabase(name string, hashes Hashes) (*Database, error) {
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return nil, err
	}
	return newDatabase(name, vkey, skey, hashes), nil
}

func newDatabase(name, vkey, skey string, hashes Hashes) *Database {
	d := &Database{name: name, key: vkey, signer: skey, hashes: hashes, lies: map[module.Version]string{}}
	d.ops = sumdb.NewTestServer(skey, func(path, version string) ([]byte, error) {
		return d.gosum(module.Version{Path: path, Version: version}, hashes)
	})
	d.server = sumdb.NewServer(d.ops)
	return d
}

// Fork makes a database of the same name and key with a history of its own, empty
// at first: what a database does that shows some of its users another one.
func (d *Database) Fork() *Database { return newDatabase(d.name, d.key, d.signer, d.hashes) }

// Database makes a checksum database over the world.
func (w *World) Database(name string) (*Database, error) {
	return NewDatabase(name, func(m module.Version) (zip, mod string, err error) {
		r := w.Release(m)
		if r == nil {
			return "", "", fmt.Errorf("%s: unknown revision: %w", m, fs.ErrNotExist)
		}
		if zip, err = r.H1(); err != nil {
			return "", "", err
		}
		mod, err = r.ModH1()
		return zip, mod, err
	})
}

// Key is the verifier key, the way GOSUMDB writes it: as it stands, for a
// database that is reached through a proxy.
func (d *Database) Key() string { return d.key }

// SpecAt is a value of GOSUMDB for the database at url, asked directly.
func (d *Database) SpecAt(url string) string { return d.key + " " + url }

// Name is the database's name, as in /sumdb/<name>/.
func (d *Database) Name() string { return d.name }

// Lie makes the database state another hash for a module's zip, if it has not
// been asked for it before: an honest log with a wrong entry.
func (d *Database) Lie(m module.Version, zip string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies[m] = zip
}

func (d *Database) gosum(m module.Version, hashes Hashes) ([]byte, error) {
	if strings.HasPrefix(m.Path, padding) {
		hashes = padded
	}
	zip, mod, err := hashes(m)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	if lie, ok := d.lies[m]; ok {
		zip = lie
	}
	d.mu.Unlock()
	return fmt.Appendf(nil, "%s %s %s\n%s %s/go.mod %s\n", m.Path, m.Version, zip, m.Path, m.Version, mod), nil
}

// padded makes up the hashes of a module that Fill adds.
func padded(m module.Version) (zip, mod string, err error) {
	mod, err = HashMod(fmt.Appendf(nil, "module %s\n", m.Path))
	return mod, mod, err
}

// ServeHTTP serves the database, asked directly or below /sumdb/<name>/.
func (d *Database) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	defer func() {
		if p := recover(); p != nil { // the test server's way to say that its tree is smaller
			http.NotFound(w, req)
		}
	}()
	prefix := "/sumdb/" + d.name
	if rest, ok := strings.CutPrefix(req.URL.Path, prefix); ok {
		if rest == "/supported" {
			w.WriteHeader(http.StatusOK)
			return
		}
		http.StripPrefix(prefix, d.server).ServeHTTP(w, req)
		return
	}
	d.server.ServeHTTP(w, req)
}

// Fill adds n records of modules that nobody asks for, as a database of some age
// holds: from 256 on it has full tiles, which clients may keep for ever.
func (d *Database) Fill(ctx context.Context, n int) error {
	d.mu.Lock()
	first := d.filled
	d.filled += n
	d.mu.Unlock()
	for i := range n {
		if err := d.Record(ctx, module.Version{Path: fmt.Sprintf("%s%d", padding, first+i), Version: "v1.0.0"}); err != nil {
			return err
		}
	}
	return nil
}

// Record adds a record of m, unless there is one: with Fill in between, modules are as
// far apart in the log as those of a project are in a real one.
func (d *Database) Record(ctx context.Context, m module.Version) error {
	_, err := d.ops.Lookup(ctx, m)
	return err
}

// padding begins the paths of modules that Fill makes up.
const padding = "padding.test/m"

// Proxy serves a world or any other content with the database below /sumdb/, as
// an upstream does that carries both.
func Proxy(content http.Handler, d *Database) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/sumdb/") {
			if d == nil || !strings.HasPrefix(req.URL.Path, "/sumdb/"+d.name+"/") {
				http.Error(w, "not found: unknown checksum database", http.StatusNotFound)
				return
			}
			d.ServeHTTP(w, req)
			return
		}
		content.ServeHTTP(w, req)
	})
}
