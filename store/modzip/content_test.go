package modzip_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

func TestPackAndContent(t *testing.T) {
	for _, c := range []struct {
		name    string
		content []byte
	}{
		{"empty", nil},
		{"short", []byte("ab")},
		{"text", bytes.Repeat([]byte("package p\n"), 10_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			sum := verify.DigestOf(c.content)
			raw, stream, err := modzip.Pack(sum, c.content)
			if err != nil {
				t.Fatal(err)
			}
			if raw.Size != int64(len(c.content)) || raw.CompressedSize != int64(len(stream)) {
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

// A file that came as a content has the stream that the zip had which archive/zip wrote.
func TestPackIsAsArchiveZipDoes(t *testing.T) {
	content := []byte("package p\n\nfunc One() int { return 1 }\n\nfunc Two() int { return 2 }\n")
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range map[string][]byte{"a": content, "b": bytes.Repeat(content, 1000)} {
		f, err := w.Create(name)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.File {
		rc, err := f.OpenRaw()
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		data := content
		if f.Name == "b" {
			data = bytes.Repeat(content, 1000)
		}
		raw, stream, err := modzip.Pack(verify.DigestOf(data), data)
		if err != nil || !bytes.Equal(stream, want) || raw.Method != f.Method || raw.CRC32 != f.CRC32 {
			t.Errorf("%s: %+v in %d bytes (%v), archive/zip makes %d", f.Name, raw, len(stream), err, len(want))
		}
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
