package store

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// lose deletes keys from the database of a closed store, as a table does that is lost.
func lose(t *testing.T, dir string, keys ...[]byte) {
	t.Helper()
	db := openRaw(t, dir)
	defer closeRaw(t, db)
	if err := db.Update(func(txn *badger.Txn) error {
		for _, k := range keys {
			if err := txn.Delete(k); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func openRaw(t *testing.T, dir string) *badger.DB {
	t.Helper()
	o := smallOptions()
	o.defaults()
	db, err := badger.Open(badgerOptions(filepath.Join(dir, "badger"), o))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func closeRaw(t *testing.T, db *badger.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// losing makes a store with two versions of a module that share a file which was healed
// with another encoding. Only the layout of the first is of after that.
func losing(t *testing.T) (dir string, roots [2]verify.Digest, acct Accounting) {
	t.Helper()
	dir = t.TempDir()
	s, err := Open(dir, smallOptions())
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("some text that deflates; "), 1000)
	for i := range roots {
		m := module.Version{Path: m1.Path, Version: []string{"v1.0.0", "v1.1.0"}[i]}
		roots[i] = putZip(t, s, m, makeZip(t, m, testFile{"a", content}, testFile{m.Version, []byte(m.Version)}))
	}
	sum := verify.DigestOf(content)
	flip(t, s, firstChunk(t, s, sum))
	findByRead(t, s, roots[0])
	raw, stream := deflated(t, content, flate.HuffmanOnly)
	if err := s.PutRaw(t.Context(), raw, bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	readZip(t, s, roots[0])
	acct = s.Accounting()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, roots, acct
}

// TestLostSingleKeys: a store that has lost keys which it cannot be without opens, holds
// all else, and says that more may be lost until everything was read.
func TestLostSingleKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		keys   string
		edit   func(dir string) error // beside the database
		silent bool
	}{
		"schema version":                       {keys: "v"},
		"schema version, and none was noted":   {keys: "v", edit: func(dir string) error { return os.Remove(filepath.Join(dir, "badger", schemaName)) }},
		"accounting":                           {keys: "a"},
		"epoch":                                {keys: "e"},
		"epoch, of a store that may have none": {keys: "e", edit: func(dir string) error { return os.Remove(filepath.Join(dir, "badger", schemaName)) }, silent: true},
		"number":                               {keys: "g", silent: true},
		"all of them":                          {keys: "vaeg"},
		"none, but the note of the schema is no good": {edit: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "badger", schemaName), []byte("?"), 0o600)
		}, silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, roots, acct := losing(t)
			for _, space := range tc.keys {
				lose(t, dir, []byte{byte(space)})
			}
			if tc.edit != nil {
				if err := tc.edit(dir); err != nil {
					t.Fatal(err)
				}
			}
			s := openTest(t, dir, smallOptions())
			checkStore(t, s)
			if got := s.Accounting(); got.FileBytes != acct.FileBytes || got.Zips != acct.Zips || got.ZipRecords != acct.ZipRecords {
				t.Errorf("accounting %+v, want %+v", got, acct)
			}
			for _, root := range roots {
				if n := len(contents(t, readZip(t, s, root))); n != 2 {
					t.Errorf("%d files", n)
				}
			}
			if got := s.Upkeep().Lost > 0; got == tc.silent {
				t.Errorf("it says that something is lost: %v", got)
			}
			_, err := os.Stat(filepath.Join(dir, repairMarker))
			if got := err == nil; got == tc.silent {
				t.Errorf("a repair is asked for: %v", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openTest(t, dir, smallOptions()) // with a repair first
			if s.Upkeep().Lost > 0 == tc.silent {
				t.Error("it is forgotten, or made up, that something is lost")
			}
			if _, err := s.Scrub(t.Context(), ScrubOptions{}); err != nil || s.Upkeep().Lost > 0 {
				t.Errorf("after everything was read: %+v, %v", s.Upkeep(), err)
			}
			checkStore(t, s)
		})
	}
}

// TestNumbersAreGivenOnce: the number of a stream that was lost is not that of another
// one afterwards, or a file would be served with the content of another.
func TestNumbersAreGivenOnce(t *testing.T) {
	then := time.Now()
	for name, tc := range map[string]struct {
		clock func() time.Time
		gone  bool // the stream is lost, too
	}{
		"with its stream":        {time.Now, true},
		"and the clock is wrong": {func() time.Time { return then }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir, o := t.TempDir(), smallOptions()
			o.Clock = tc.clock
			s, err := Open(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			one, two := module.Version{Path: m1.Path, Version: "v1.0.0"}, module.Version{Path: m1.Path, Version: "v1.1.0"}
			root := putZip(t, s, one, makeZip(t, one, testFile{"a", []byte("a file of one size")}))
			keys := [][]byte{{spaceNumber}}
			if tc.gone {
				keys = append(keys, firstChunk(t, s, verify.DigestOf([]byte("a file of one size"))))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			lose(t, dir, keys...)
			s = openTest(t, dir, o)
			putZip(t, s, two, makeZip(t, two, testFile{"a", []byte("another, as large.")}))
			z, err := s.OpenZip(root)
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			if _, err := z.WriteTo(io.Discard); tc.gone && !errors.Is(err, ErrDamaged) {
				t.Errorf("a zip whose stream is lost is served: %v", err)
			}
			if !tc.gone {
				checkStore(t, s)
			}
		})
	}
}

// TestSchemaIsNotMadeUp: a database without a schema version is left as it is when it
// is not plainly a store of this schema.
func TestSchemaIsNotMadeUp(t *testing.T) {
	put := func(k string, sealed bool) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			db := openRaw(t, dir)
			defer closeRaw(t, db)
			if err := db.Update(func(txn *badger.Txn) error {
				v := []byte("a value")
				if sealed {
					v = seal([]byte(k), v)
				}
				return txn.Set([]byte(k), v)
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	note := func(text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "badger", schemaName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		store bool
		make  func(t *testing.T, dir string)
		want  error
	}{
		"another program's keys":              {false, put("other", false), ErrDamaged},
		"another program's, named like ours":  {false, put("file", false), ErrDamaged},
		"a store with a keyspace of tomorrow": {true, put("y", true), ErrDamaged},
		"a newer store":                       {true, note("2\n"), ErrNewer},
		"a store of who knows which schema":   {true, note("two\n"), ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.store {
				dir, _, _ = losing(t)
				lose(t, dir, []byte{spaceSchema})
			} else if err := os.MkdirAll(filepath.Join(dir, "badger"), 0o700); err != nil {
				t.Fatal(err)
			}
			tc.make(t, dir)
			if s, err := Open(dir, smallOptions()); !errors.Is(err, tc.want) {
				t.Fatalf("%v, %v", s, err)
			}
			db := openRaw(t, dir)
			defer closeRaw(t, db)
			if v, err := readSchema(db); !errors.Is(err, ErrNotFound) {
				t.Errorf("schema %d was written, %v", v, err)
			}
			if tc.want != ErrNewer {
				return
			}
			if err := refuseNewer(db, filepath.Join(dir, "badger")); !errors.Is(err, ErrNewer) {
				t.Errorf("it would be repaired: %v", err)
			}
		})
	}
}
