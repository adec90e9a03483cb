package main

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

// largeModule is a module of every script's world with a file, large.bin or so,
// that takes a place of its own in a store.
var largeModule = outside.Shape{Path: "example.test/large", Versions: []string{"v1.0.0"}, Files: 3, Large: 300_000}

// cmdFlip changes one bit of the largest file of largeModule where it lies in the
// files below a directory, as a bad disk does.
//
//	flip DIR
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip DIR")
	}
	w := new(outside.World)
	ts.Check(w.Grow(1, largeModule))
	name, stream, err := largest(w.Release(module.Version{Path: largeModule.Path, Version: "v1.0.0"}))
	ts.Check(err)
	flipped := 0
	err = filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(data, stream)
		if at < 0 {
			return nil
		}
		flipped++
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte{stream[0] ^ 1}, int64(at))
		return err
	})
	ts.Check(err)
	if flipped != 1 {
		ts.Fatalf("%s is at %d places below %s, want 1", name, flipped, args[0])
	}
	ts.Setenv("DAMAGED", name)
}

// largest is the name of the largest file in a release's zip, and the middle of
// its stream.
func largest(r *outside.Release) (name string, middle []byte, err error) {
	data, err := r.Zip()
	if err != nil {
		return "", nil, err
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return "", nil, err
	}
	best := z.File[0]
	for _, f := range z.File {
		if f.CompressedSize64 > best.CompressedSize64 {
			best = f
		}
	}
	raw, err := best.OpenRaw()
	if err != nil {
		return "", nil, err
	}
	stream, err := io.ReadAll(raw)
	if err == nil && len(stream) < 100_000 {
		err = fmt.Errorf("%s has a stream of %d bytes: too small to be found", best.Name, len(stream))
	}
	if err != nil {
		return "", nil, err
	}
	return best.Name, stream[len(stream)/2:][:1000], nil
}

// cmdNewer makes a data directory as a version of this program would that is newer:
// the schema version, key v, is higher than any known.
//
//	newer DIR
func cmdNewer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: newer DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	db, err := badger.Open(badger.DefaultOptions(filepath.Join(dir, "badger")).WithLogger(nil))
	ts.Check(err)
	key, value := []byte("v"), binary.BigEndian.AppendUint32(nil, 1000)
	sum := crc32.Checksum(append(key[:1:1], value...), crc32.MakeTable(crc32.Castagnoli))
	ts.Check(db.Update(func(txn *badger.Txn) error {
		return txn.Set(key, binary.BigEndian.AppendUint32(value, sum))
	}))
	ts.Check(db.Close())
}
