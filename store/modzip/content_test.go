package modzip_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"testing"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

func TestPackAndContent(t *testing.T) {
	for _, c := range []struct {
		name    string
		content []byte
		method  uint16
	}{
		{"empty", nil, zip.Store},
		{"short", []byte("ab"), zip.Store},
		{"text", bytes.Repeat([]byte("package p\n"), 10_000), zip.Deflate},
	} {
		t.Run(c.name, func(t *testing.T) {
			sum := verify.DigestOf(c.content)
			raw, stream, err := modzip.Pack(sum, c.content)
			if err != nil {
				t.Fatal(err)
			}
			if raw.Method != c.method || raw.Size != int64(len(c.content)) || raw.CompressedSize != int64(len(stream)) {
				t.Errorf("packed as %+v in %d bytes", raw, len(stream))
			}
			if err := raw.Verify(t.Context(), bytes.NewReader(stream)); err != nil {
				t.Error(err)
			}
			got, err := raw.Content(t.Context(), bytes.NewReader(stream))
			if err != nil || !bytes.Equal(got, c.content) {
				t.Errorf("content comes out as %d bytes, %v", len(got), err)
			}
			again, second, err := modzip.Pack(sum, c.content)
			if err != nil || again != raw || !bytes.Equal(second, stream) {
				t.Errorf("packed again as %+v (%v), before as %+v", again, err, raw)
			}
		})
	}
}

func TestContentOfAnotherFile(t *testing.T) {
	raw, stream, err := modzip.Pack(verify.DigestOf(nil), []byte("not what the sum says"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := raw.Content(t.Context(), bytes.NewReader(stream)); !errors.Is(err, modzip.ErrBadFile) || got != nil {
		t.Errorf("got %q, %v; want nothing and ErrBadFile", got, err)
	}
}
