package store

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"
	"pgregory.net/rapid"

	"github.com/meshproxy/meshproxy/verify"
)

// fewChecks keeps the property test short unless -rapid.checks asks for more:
// each check opens databases.
func fewChecks(t *testing.T) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue {
		return
	}
	if err := f.Value.Set("10"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
}

// model is what a store should hold.
type model struct {
	t       *testing.T
	dir     string
	s       *Store
	staged  map[int]*Staged // zips of the pool on their way, by index
	held    map[int]bool    // zips of the pool that are held
	records map[verify.Name]verify.Digest
	pinned  bool // module 0
	pool    *[poolSize]*pooled
}

const poolSize = 12

// poolZip is one of a few zips that share files: some modules have many versions.
func poolZip(i int) (module.Version, []testFile) {
	m := module.Version{Path: fmt.Sprintf("example.test/m%d", i%3), Version: fmt.Sprintf("v1.%d.0", i)}
	files := []testFile{{"LICENSE", []byte("license")}, {"v.go", []byte(m.Version)}}
	for j := range i % 5 {
		files = append(files, testFile{fmt.Sprintf("f%d.go", j), bytes.Repeat([]byte{byte('a' + (i+j)%4)}, 3000*(j+1))})
	}
	if i%4 == 0 {
		files = append(files, testFile{"large", bytes.Repeat([]byte("0123456789abcdef"), 1<<14)}, testFile{"dir/", nil})
	}
	return m, files
}

// pooled is a zip of the pool, made once.
type pooled struct {
	scanned *Scanned
	data    []byte
	content map[string]string
}

func (m *model) zip(i int) (*Scanned, []byte) {
	p := m.pooled(i)
	return p.scanned, p.data
}

func (m *model) pooled(i int) *pooled {
	if m.pool[i] == nil {
		mod, files := poolZip(i)
		data := makeZip(m.t, mod, files...)
		z, err := ScanZip(context.Background(), bytes.NewReader(data), int64(len(data)), mod)
		if err != nil {
			m.t.Fatal(err)
		}
		m.pool[i] = &pooled{z, data, contents(m.t, data)}
	}
	return m.pool[i]
}

func (m *model) open(dir string) {
	o := smallOptions()
	o.tune = func(b badger.Options) badger.Options {
		return b.WithMemTableSize(1 << 20).WithValueLogFileSize(1 << 20)
	}
	s, err := Open(dir, o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.dir, m.s, m.staged = dir, s, make(map[int]*Staged)
}

// TestModel runs random operations on a store and on a model of it.
func TestModel(t *testing.T) {
	fewChecks(t)
	var pool [poolSize]*pooled
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: t, pool: &pool, held: make(map[int]bool), records: make(map[verify.Name]verify.Digest)}
		m.open(t.TempDir())
		defer func() {
			if err := m.s.Close(); err != nil {
				rt.Fatal(err)
			}
		}()
		index := rapid.IntRange(0, poolSize-1)
		rt.Repeat(map[string]func(*rapid.T){
			"stage":  func(rt *rapid.T) { m.stage(rt, index.Draw(rt, "zip")) },
			"pull":   func(rt *rapid.T) { m.pull(rt, index.Draw(rt, "zip"), rapid.IntRange(0, 6).Draw(rt, "files")) },
			"commit": func(rt *rapid.T) { m.commit(rt, index.Draw(rt, "zip")) },
			"giveUp": func(rt *rapid.T) { m.giveUp(rt, index.Draw(rt, "zip")) },
			"drop":   func(rt *rapid.T) { m.drop(rt, index.Draw(rt, "zip")) },
			"record": func(rt *rapid.T) { m.record(rt, index.Draw(rt, "mod"), rapid.Bool().Draw(rt, "other")) },
			"pin":    func(rt *rapid.T) { m.pin(rt) },
			"gc":     func(rt *rapid.T) { m.gc(rt) },
			"damage": func(rt *rapid.T) { m.damage(rt, index.Draw(rt, "zip")) },
			"reopen": func(rt *rapid.T) { m.reopen(rt) },
			"crash":  func(rt *rapid.T) { m.crash(rt) },
			"":       func(rt *rapid.T) { m.check(rt) },
		})
	})
}

func (m *model) stage(rt *rapid.T, i int) {
	if m.staged[i] != nil {
		return
	}
	z, _ := m.zip(i)
	st, err := m.s.StageZip(context.Background(), z)
	if err != nil {
		rt.Fatal(err)
	}
	m.staged[i] = st
}

// pull stages a listing and brings at most n of the missing files.
func (m *model) pull(rt *rapid.T, i, n int) {
	z, _ := m.zip(i)
	st := m.staged[i]
	if st == nil {
		var err error
		if st, err = m.s.StageListing(context.Background(), z.Module, z.Root, z.Listing.Encode()); err != nil {
			rt.Fatal(err)
		}
		m.staged[i] = st
	}
	missing, err := st.Missing()
	if err != nil {
		rt.Fatal(err)
	}
	for _, f := range missing[:min(n, len(missing))] {
		from, _ := z.Stream(f.Sum)
		if err := m.s.PutRaw(context.Background(), from.Raw, z.Open(from)); err != nil {
			rt.Fatal(err)
		}
	}
}

func (m *model) commit(rt *rapid.T, i int) {
	st := m.staged[i]
	if st == nil {
		return
	}
	missing, err := st.Missing()
	if err != nil {
		rt.Fatal(err)
	}
	z, _ := m.zip(i)
	err = m.s.Commit(context.Background(), zipRecord(m.t, st.Module, z.Root, z.Size), st)
	if len(missing) > 0 != errors.Is(err, ErrIncomplete) || len(missing) == 0 && err != nil {
		rt.Fatalf("commit with %d files missing: %v", len(missing), err)
	}
	if err == nil {
		m.held[i] = true
		m.records[verify.Name{Module: st.Module, Kind: verify.Zip}] = z.Root
	}
	m.giveUp(rt, i)
}

func (m *model) giveUp(rt *rapid.T, i int) {
	if st := m.staged[i]; st != nil {
		if err := st.Close(); err != nil {
			rt.Fatal(err)
		}
		delete(m.staged, i)
	}
}

func (m *model) drop(rt *rapid.T, i int) {
	z, _ := m.zip(i)
	err := m.s.Drop(context.Background(), z.Root)
	switch {
	case m.staged[i] != nil:
		if !errors.Is(err, ErrBusy) {
			rt.Fatalf("drop of a staged zip: %v", err)
		}
	case m.held[i] && err != nil:
		rt.Fatal(err)
	case !m.held[i] && !errors.Is(err, ErrNotFound):
		rt.Fatalf("drop of a zip that is not held: %v", err)
	default:
		delete(m.held, i)
	}
}

func (m *model) record(rt *rapid.T, i int, other bool) {
	mod, _ := poolZip(i)
	extra := ""
	if other {
		extra = "go 1.26\n"
	}
	rec := modRecord(m.t, mod, extra)
	err := m.s.Commit(context.Background(), rec, nil)
	first, known := m.records[rec.Record.Name]
	if conflict := known && first != rec.Record.Digest; conflict != errors.Is(err, ErrConflict) || !conflict && err != nil {
		rt.Fatalf("known %v: %v", known, err)
	}
	if !known {
		m.records[rec.Record.Name] = rec.Record.Digest
	}
}

func (m *model) pin(rt *rapid.T) {
	var err error
	if m.pinned {
		err = m.s.Unpin("example.test/m0")
	} else {
		err = m.s.Pin("example.test/m0")
	}
	if err != nil {
		rt.Fatal(err)
	}
	m.pinned = !m.pinned
}

// gc drops everything that it may.
func (m *model) gc(rt *rapid.T) {
	if _, err := m.s.GC(context.Background(), GCOptions{MaxSize: 1}); err != nil {
		rt.Fatal(err)
	}
	for i := range poolSize {
		z, _ := m.zip(i)
		if m.held[i] && m.staged[i] == nil && !(m.pinned && i%3 == 0) && !m.s.HasZip(z.Root) {
			delete(m.held, i)
		}
	}
}

// damage flips a bit in a file of a held zip, has a read find it, and heals it.
func (m *model) damage(rt *rapid.T, i int) {
	if !m.held[i] {
		return
	}
	z, _ := m.zip(i)
	sum := z.Listing.Files[0].Sum
	flip(m.t, m.s, firstChunk(m.t, m.s, sum))
	zf, err := m.s.OpenZip(z.Root)
	if err == nil {
		_, err = io.Copy(io.Discard, struct{ io.Reader }{zf}) // WriteTo may have it in memory, undamaged
		zf.Close()
	}
	if !errors.Is(err, ErrDamaged) || m.s.HasZip(z.Root) {
		rt.Fatalf("damaged zip: %v", err)
	}
	from, _ := z.Stream(sum)
	if err := m.s.PutRaw(context.Background(), from.Raw, z.Open(from)); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) reopen(rt *rapid.T) {
	if err := m.s.Close(); err != nil {
		rt.Fatal(err)
	}
	m.open(m.dir)
}

// crash goes on with a copy of the open store, which is what a kill leaves.
func (m *model) crash(*rapid.T) {
	dir := m.t.TempDir()
	copyDir(m.t, m.dir, dir)
	if err := m.s.Close(); err != nil {
		m.t.Fatal(err)
	}
	os.RemoveAll(m.dir)
	m.open(dir)
}

func (m *model) check(rt *rapid.T) {
	for i := range poolSize {
		z, _ := m.zip(i)
		if m.s.HasZip(z.Root) != m.held[i] {
			rt.Fatalf("zip %d: held %v, want %v", i, !m.held[i], m.held[i])
		}
		if !m.held[i] {
			continue
		}
		got, want := contents(m.t, readZip(m.t, m.s, z.Root)), m.pooled(i).content
		for name := range want {
			if got[name] != want[name] {
				rt.Fatalf("zip %d: %s differs", i, name)
			}
		}
	}
	for n, digest := range m.records {
		if r, err := m.s.Record(n); err != nil || r.Record.Digest != digest {
			rt.Fatalf("%s: %v", n, err)
		}
	}
	problems, err := m.s.Check(context.Background(), true, nil)
	if err != nil || len(problems) > 0 {
		rt.Fatalf("%v, %v", problems, err)
	}
}
