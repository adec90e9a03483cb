package testnet

import (
	"bytes"
	"io/fs"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/ports"
)

// builds asks an office for leaves as go commands do whose caches are empty, many at a
// time: on a machine of many cores, or on several. Each answer must be there. What the
// database says is checked by the go command's own code, to which it is a
// sumdb.ClientOps.
type builds struct {
	t    *testing.T
	o    *Office
	key  string
	sums *sumdb.Client

	mu   sync.Mutex
	kept map[string][]byte // guarded by mu; files of the go command's cache and settings
}

// buildsAtOnce is how many requests of builds are under way at once.
const buildsAtOnce = 64

func newBuilds(t *testing.T, o *Office, key string) *builds {
	b := &builds{t: t, o: o, key: key, kept: map[string][]byte{}}
	b.sums = sumdb.NewClient(b)
	return b
}

// get reports whether the answer was there.
func (b *builds) get(path string) (body []byte, ok bool) {
	status, body, err := b.o.Get(path)
	if err != nil || status != http.StatusOK {
		b.t.Errorf("office %s: %s: status %d, %v: %.400s", b.o.Name, path, status, err, body)
		return nil, false
	}
	return body, true
}

func (b *builds) ReadRemote(path string) ([]byte, error) {
	body, ok := b.get("/sumdb/" + sums + path)
	if !ok {
		return nil, fs.ErrNotExist
	}
	return body, nil
}

func (b *builds) ReadConfig(file string) ([]byte, error) {
	if file == "key" {
		return []byte(b.key), nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept[file], nil
}

func (b *builds) WriteConfig(file string, old, new []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !bytes.Equal(b.kept[file], old) {
		return sumdb.ErrWriteConflict
	}
	b.kept[file] = new
	return nil
}

func (b *builds) ReadCache(file string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if data := b.kept[file]; data != nil {
		return data, nil
	}
	return nil, fs.ErrNotExist
}

func (b *builds) WriteCache(file string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept[file] = data
}

func (b *builds) Log(string) {}

func (b *builds) SecurityError(text string) { b.t.Error(text) }

// ask asks for these of each leaf, one after the other: kinds of files, or "lookup".
func (b *builds) ask(leaves int, what ...string) {
	var g sync.WaitGroup
	next := make(chan int)
	for range buildsAtOnce {
		g.Go(func() {
			for i := range next {
				for _, kind := range what {
					if kind != "lookup" {
						b.get("/" + leaf(i) + "/@v/v1.0.0." + kind)
					} else if _, err := b.sums.Lookup(leaf(i), "v1.0.0"); err != nil {
						b.t.Errorf("office %s: %v", b.o.Name, err)
					}
				}
			}
		})
	}
	for i := range leaves {
		next <- i
	}
	close(next)
	g.Wait()
}

// TestLargeLog: in a checksum database of real size each module of a project is in a
// tile of its own. An office without an upstream has all of them from the office that
// fetched the project, however many are asked for at once and in which order, and keeps
// what it has.
func TestLargeLog(t *testing.T) {
	const modules, apart = 72, 300 // tiles have 256 records
	s := surround(t, leaves(t, modules))
	for i := range modules {
		err := s.db.Fill(t.Context(), apart)
		if err == nil {
			err = s.db.Record(t.Context(), module.Version{Path: leaf(i), Version: "v1.0.0"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	orders := map[string][][]string{
		"as go mod download asks":           {{"mod", "lookup"}, {"info"}, {"zip"}},
		"lookups before anything else":      {{"lookup"}, {"mod"}, {"zip", "info"}},
		"each zip soon after its own .info": {{"mod"}, {"info", "zip"}, {"lookup"}},
	}
	a := s.Found("a", s.online())
	for _, what := range orders["as go mod download asks"] {
		newBuilds(t, a, s.db.Key()).ask(modules, what...)
	}
	nowhere, err := ports.Address() // the database itself is out of reach
	if err != nil {
		t.Fatal(err)
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			a.Restart() // the office before it ended without it
			b := s.Join("b "+name, a, node.Config{Upstream: "off", SumDB: s.db.SpecAt("http://" + nowhere)})
			defer b.Stop() // the next one has nobody but a
			s.Settle()
			client := newBuilds(t, b, s.db.Key())
			for _, what := range order {
				client.ask(modules, what...)
			}
			a.Stop()
			newBuilds(t, b, s.db.Key()).ask(modules, "lookup", "mod", "info", "zip")
		})
	}
}
