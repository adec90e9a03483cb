package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/module"
)

func TestBackupAndRestore(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	root := putZip(t, s, m1, makeZip(t, m1, testFile{"a", noise(3 << 20)}, testFile{"b", []byte("b")}))
	if err := s.Commit(ctx, modRecord(t, m1, ""), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta("roster", []byte("members")); err != nil {
		t.Fatal(err)
	}
	want := readZip(t, s, root)
	m2 := module.Version{Path: m1.Path, Version: "v1.9.0"}
	z, st := stageZip(t, s, m2, makeZip(t, m2, testFile{"a", []byte("staged")}))
	defer st.Close()
	var b bytes.Buffer
	if err := s.Backup(ctx, &b, nil); err != nil {
		t.Fatal(err)
	}

	dir := filepath.Join(t.TempDir(), "new")
	if err := Restore(ctx, dir, bytes.NewReader(b.Bytes()), smallOptions(), nil); err != nil {
		t.Fatal(err)
	}
	r := openTest(t, dir, smallOptions())
	if !bytes.Equal(readZip(t, r, root), want) || r.HasZip(z.Root) {
		t.Error("restored store differs")
	}
	if v, err := r.Meta("roster"); err != nil || string(v) != "members" {
		t.Errorf("%q, %v", v, err)
	}
	checkStore(t, r)
	if err := Restore(ctx, dir, bytes.NewReader(b.Bytes()), smallOptions(), nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("restore over a store: %v", err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), smallOptions())
	putZip(t, s, m1, makeZip(t, m1, testFile{"a", noise(100_000)}))
	var b bytes.Buffer
	if err := s.Backup(ctx, &b, nil); err != nil {
		t.Fatal(err)
	}
	good := b.Bytes()
	for _, tc := range []struct {
		name string
		data func() []byte
	}{
		{"empty", func() []byte { return nil }},
		{"other file", func() []byte { return []byte("hello") }},
		{"truncated by half", func() []byte { return good[:len(good)/2] }},
		{"truncated by one byte", func() []byte { return good[:len(good)-1] }},
		{"flipped bit", func() []byte { c := bytes.Clone(good); c[len(c)/2] ^= 1; return c }},
		{"followed by more", func() []byte { return append(bytes.Clone(good), 1, 2, 3) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "new")
			if err := Restore(ctx, dir, bytes.NewReader(tc.data()), smallOptions(), nil); err == nil {
				t.Fatal("accepted")
			}
			if entries, err := os.ReadDir(parent); err != nil || len(entries) > 0 {
				t.Fatalf("left %v, %v", entries, err)
			}
		})
	}
}
