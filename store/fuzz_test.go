package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"testing"

	"github.com/libp2p/go-msgio"

	"github.com/meshproxy/meshproxy/verify"
)

// Every decoder of what is on disk: no panic, no allocation that the input does
// not pay for, an ErrDamaged for what no encoder wrote, and what is accepted
// encodes to the same bytes.

func FuzzFileHead(f *testing.F) {
	f.Add(fileHead{flags: flagPresent, refs: 3, num: 7, raw: RawFile{Method: 8, CRC32: 1, CompressedSize: 2, Size: 3}}.encode())
	f.Add(fileHead{refs: 1}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeFileHead(verify.Digest{1}, b)
		if err == nil && !bytes.Equal(h.encode(), b) {
			t.Fatalf("%x became %x", b, h.encode())
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}

func FuzzLayout(f *testing.F) {
	two := []verify.File{{Name: "a", Sum: verify.Digest{1}}, {Name: "b", Sum: verify.Digest{2}}}
	f.Add(layout{epoch: 9, files: []stream{
		{RawFile{Sum: two[0].Sum, Method: 8, CRC32: 5, CompressedSize: 300, Size: 70000}, 12},
		{RawFile{Sum: two[1].Sum, CompressedSize: 1, Size: 1}, 3},
	}}.encode())
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLayout(two, b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeLayout(two, l.encode())
		if err != nil || again.epoch != l.epoch || again.files[0] != l.files[0] || again.files[1] != l.files[1] {
			t.Fatalf("%+v became %+v, %v", l, again, err)
		}
	})
}

func FuzzSmallValues(f *testing.F) {
	f.Add(use{1, 2, 3}.encode())
	f.Add(stamped(5, []byte("value")))
	f.Add(joinRecord(verify.Digest{1}, []byte("envelope")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := decodeUse(b); err == nil && !bytes.Equal(u.encode(), b) {
			t.Errorf("use %x", b)
		}
		if at, v, err := decodeStamped(b); err == nil && !bytes.Equal(stamped(at, v), b) {
			t.Errorf("stamped %x", b)
		}
		if d, v, err := splitRecord(b); err == nil && !bytes.Equal(joinRecord(d, v), b) {
			t.Errorf("record %x", b)
		}
		if v, err := unseal([]byte("key"), b); err == nil && !bytes.Equal(seal([]byte("key"), bytes.Clone(v)), b) {
			t.Errorf("sealed %x", b)
		}
	})
}

func FuzzKeys(f *testing.F) {
	n := verify.Name{Module: m1, Kind: verify.Mod}
	f.Add(recordKey(n))
	f.Add(streamKey(1<<40, 7))
	f.Add(chunkKey(spaceListing, verify.Digest{1}, 7))
	f.Add(digestKey(spaceZip, verify.Digest{1}))
	f.Fuzz(func(t *testing.T, k []byte) {
		if len(k) == 0 {
			return
		}
		space := k[0]
		if n, err := parseRecordKey(k); err == nil && !bytes.Equal(recordKey(n)[1:], k[1:]) {
			t.Errorf("record key %q", k)
		}
		if num, i, err := parseStreamKey(k); err == nil && !bytes.Equal(streamKey(num, i)[1:], k[1:]) {
			t.Errorf("stream key %x", k)
		}
		if d, i, err := parseChunkKey(k); err == nil && !bytes.Equal(chunkKey(space, d, i), k) {
			t.Errorf("chunk key %x", k)
		}
		if d, err := parseDigest(k); err == nil && !bytes.Equal(digestKey(space, d), k) {
			t.Errorf("digest key %x", k)
		}
		_ = describe(k)
	})
}

// FuzzRestore: no backup, however made, is restored to a store that does not check.
func FuzzRestore(f *testing.F) {
	page := func(v any) []byte {
		b, err := encMode.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	k := []byte{spaceSchema}
	f.Add(page(backupHeader{backupFormat, schema}), page(backupPage{Keys: [][]byte{k}, Values: [][]byte{seal(k, []byte{0, 0, 0, 1})}}), page(backupPage{Total: 1}))
	f.Add(page(backupHeader{backupFormat, schema}), page(backupPage{Keys: [][]byte{k, k}}), page(backupPage{Total: 2}))
	f.Fuzz(func(t *testing.T, header, body, end []byte) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := msgio.NewVarintWriter(z)
		for _, m := range [][]byte{header, body, end} {
			if err := w.WriteMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir() + "/new"
		if Restore(context.Background(), dir, &b, tinyOptions(), nil) != nil {
			return
		}
		s := openTest(t, dir, tinyOptions())
		checkStore(t, s)
	})
}
