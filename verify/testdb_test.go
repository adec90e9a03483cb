package verify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const testDB = "sums.example.test"

// memCache is a DBCache in memory that can be told to fail.
type memCache struct {
	mu   sync.Mutex
	m    map[string][]byte
	puts int
	fail error
}

func newMemCache() *memCache { return &memCache{m: make(map[string][]byte)} }

func (c *memCache) Get(key string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.m[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	return v, nil
}

func (c *memCache) Put(key string, value []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	c.puts++
	c.m[key] = append([]byte(nil), value...)
	return nil
}

// edit replaces every value by what f makes of it; nil removes it.
func (c *memCache) edit(f func(key string, value []byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, v := range c.m {
		if v = f(k, v); v == nil {
			delete(c.m, k)
		} else {
			c.m[k] = v
		}
	}
}

// remoteFunc is a DBRemote.
type remoteFunc func(ctx context.Context, path string) ([]byte, error)

func (f remoteFunc) ReadRemote(ctx context.Context, path string) ([]byte, error) { return f(ctx, path) }

// testLog is a whole checksum database: it knows every module below example.test
// and counts what it is asked.
type testLog struct {
	name, skey, vkey string
	server           *sumdb.TestServer
	handler          http.Handler

	mu    sync.Mutex
	asked map[string]int
}

// testSums is the truth about m's zip and go.mod, different for each tag.
func testSums(m module.Version, tag string) (zip, gomod Digest) {
	return DigestOf([]byte(tag + "zip of " + m.String())), DigestOf([]byte(tag + "mod of " + m.String()))
}

func newTestLog(t testing.TB, name, tag string) *testLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	return keyedLog(name, skey, vkey, tag)
}

// fork returns a database with the same key and another history.
func (l *testLog) fork() *testLog { return keyedLog(l.name, l.skey, l.vkey, "forked ") }

func keyedLog(name, skey, vkey, tag string) *testLog {
	l := &testLog{name: name, skey: skey, vkey: vkey, asked: make(map[string]int)}
	l.server = sumdb.NewTestServer(skey, func(path, version string) ([]byte, error) {
		if !module.MatchPrefixPatterns("example.test,golang.org/toolchain", path) {
			return nil, fs.ErrNotExist
		}
		zip, gomod := testSums(module.Version{Path: path, Version: version}, tag)
		return fmt.Appendf(nil, "%s %s %s\n%s %s/go.mod %s\n", path, version, zip.H1(), path, version, gomod.H1()), nil
	})
	l.handler = sumdb.NewServer(l.server)
	return l
}

// grow adds n records.
func (l *testLog) grow(t testing.TB, n int) {
	t.Helper()
	head, err := l.server.Signed(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := note.Open(head, note.VerifierList(l.verifier(t)))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := tlog.ParseTree([]byte(parsed.Text))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m := module.Version{Path: "example.test/filler", Version: fmt.Sprintf("v1.%d.0", tree.N+int64(i))}
		if _, err := l.server.Lookup(context.Background(), m); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *testLog) verifier(t testing.TB) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(l.vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (l *testLog) ReadRemote(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.asked[path]++
	l.mu.Unlock()
	w := httptest.NewRecorder()
	func() {
		defer func() {
			if recover() != nil { // x/mod's test server has no answer to tiles beyond its tree
				w.Code = http.StatusNotFound
			}
		}()
		l.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	}()
	switch w.Code {
	case http.StatusOK:
		return w.Body.Bytes(), nil
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%s: %w", w.Body, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("status %d: %s", w.Code, w.Body)
}

// requests is how often the database was asked anything.
func (l *testLog) requests() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.asked {
		n += k
	}
	return n
}

var errDown = errors.New("connection refused")

// down is a source that is out of reach.
var down = remoteFunc(func(context.Context, string) ([]byte, error) { return nil, errDown })

func (l *testLog) spec() Spec { return Spec{Name: l.name, Key: l.vkey} }

// open returns a client of l, or of the adversaries that stand in front of it. It
// asks one source after the other, however slow the machine is.
func (l *testLog) open(t testing.TB, cache DBCache, remotes ...DBRemote) *Database {
	t.Helper()
	o := DatabaseOptions{Spec: l.spec(), Cache: cache, Hedge: time.Hour}
	for i, r := range remotes {
		o.Sources = append(o.Sources, Source{Name: fmt.Sprintf("source%d", i), Remote: r})
	}
	d, err := NewDatabase(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mod(i int) module.Version {
	return module.Version{Path: fmt.Sprintf("example.test/Some/mod%d", i), Version: "v1.2.3"}
}

// mustProve looks m up and checks the answer against the truth.
func mustProve(t testing.TB, d *Database, m module.Version) *Proof {
	t.Helper()
	p, err := d.Prove(context.Background(), m)
	if err != nil {
		t.Fatalf("Prove(%s): %v", m, err)
	}
	checkTruth(t, d, m, p)
	return p
}

func checkTruth(t testing.TB, d *Database, m module.Version, p *Proof) {
	t.Helper()
	if err := p.Check(d.Verifier()); err != nil {
		t.Fatal(err)
	}
	zip, gomod := testSums(m, "")
	for kind, want := range map[Kind]Digest{Zip: zip, Mod: gomod} {
		if got, err := p.Digest(Name{m, kind}); err != nil || got != want {
			t.Fatalf("%s of %s: got %v, %v, want %v", kind, m, got, err, want)
		}
	}
}

// goClient is the go command's own client, which asks d for everything.
type goClient struct {
	t      testing.TB
	d      *Database
	o      ServeOptions
	mu     sync.Mutex
	config map[string][]byte
}

func (c *goClient) ReadRemote(path string) ([]byte, error) {
	return c.d.Serve(context.Background(), path[1:], c.o)
}
func (c *goClient) ReadConfig(file string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config[file], nil
}
func (c *goClient) WriteConfig(file string, old, new []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if string(c.config[file]) != string(old) {
		return sumdb.ErrWriteConflict
	}
	c.config[file] = new
	return nil
}
func (c *goClient) ReadCache(string) ([]byte, error) { return nil, fs.ErrNotExist }
func (c *goClient) WriteCache(string, []byte)        {}
func (c *goClient) Log(string)                       {}
func (c *goClient) SecurityError(msg string)         { c.t.Errorf("go command: %s", msg) }

// goLookup checks m through d as a fresh machine's go command does.
func goLookup(t testing.TB, d *Database, o ServeOptions, ms ...module.Version) {
	t.Helper()
	ops := &goClient{t: t, d: d, o: o, config: map[string][]byte{"key": []byte(d.spec.Key)}}
	client := sumdb.NewClient(ops)
	for _, m := range ms {
		lines, err := client.Lookup(m.Path, m.Version)
		if err != nil {
			t.Fatalf("the go command's lookup of %s: %v", m, err)
		}
		zip, _ := testSums(m, "")
		if want := m.Path + " " + m.Version + " " + zip.H1(); len(lines) != 1 || lines[0] != want {
			t.Fatalf("the go command's lookup of %s: got %q, want %q", m, lines, want)
		}
	}
}
