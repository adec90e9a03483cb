package store

import (
	"bytes"
	"errors"
	"io"
	mrand "math/rand/v2"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

func TestPutContents(t *testing.T) {
	noise := make([]byte, 3*chunkSize)
	rnd := mrand.New(mrand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(rnd.IntN(256))
	}
	shared := []byte("onetwo") // contents that share memory, as those of one message do
	var contents []modzip.Content
	var files []verify.File
	m := module.Version{Path: "example.test/m", Version: "v1.0.0"}
	for name, data := range map[string][]byte{
		"go.mod": []byte("module example.test/m\n"), "large": noise, "text": bytes.Repeat([]byte("text "), 1000),
		"one": shared[:3], "two": shared[3:],
	} {
		sum := verify.DigestOf(data)
		contents = append(contents, modzip.Content{Sum: sum, Data: data})
		files = append(files, verify.File{Name: m.Path + "@" + m.Version + "/" + name, Sum: sum})
	}
	listing, err := verify.NewListing(files)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.TempDir(), Options{ScrubRate: -1, Reserve: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.PutContents(t.Context(), contents); !errors.Is(err, ErrNotFound) {
		t.Errorf("files that no listing names: %v, want ErrNotFound", err)
	}
	text := listing.Encode()
	st, err := s.StageListing(t.Context(), m, verify.DigestOf(text), text)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	bad := append(contents[:len(contents):len(contents)], modzip.Content{Sum: contents[0].Sum, Data: []byte("other")})
	if err := s.PutContents(t.Context(), bad); !errors.Is(err, ErrBadFile) {
		t.Errorf("a content that is not its sum's: %v, want ErrBadFile", err)
	}
	if missing, err := st.Missing(); err != nil || len(missing) != len(files) {
		t.Errorf("%d of %d files are missing (%v), want all: none is kept", len(missing), len(files), err)
	}
	for range 2 { // the second time all are there
		if err := s.PutContents(t.Context(), contents); err != nil {
			t.Fatal(err)
		}
	}
	if missing, err := st.Missing(); err != nil || len(missing) > 0 {
		t.Errorf("%d files are missing (%v)", len(missing), err)
	}
	for _, c := range contents {
		raw, body, err := s.OpenRaw(c.Sum)
		if err != nil {
			t.Fatal(err)
		}
		got, err := raw.Content(t.Context(), body)
		if err != nil || !bytes.Equal(got, c.Data) {
			t.Errorf("%d bytes come back as %d, %v", len(c.Data), len(got), err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Error(err)
		}
		body.Close()
	}
}
