package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// TestLargeFilesWaitInMemoryOrOnDisk puts streams of sizes around those where
// something changes, with room in memory and without.
func TestLargeFilesWaitInMemoryOrOnDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		size int
	}{
		{"a byte more than a chunk", chunkSize + 1},
		{"two chunks", 2 * chunkSize},
		{"two chunks and a bit", 2*chunkSize + 77},
	} {
		for _, memory := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, in memory %v", c.name, memory), func(t *testing.T) {
				from, to := openTest(t, t.TempDir(), smallOptions()), openTest(t, t.TempDir(), smallOptions())
				if !memory && !to.spooled.TryAcquire(maxSpoolBytes) {
					t.Fatal("something waits already")
				}
				m := module.Version{Path: "example.test/large", Version: "v1.0.0"}
				data := noise(c.size)
				root := putZip(t, from, m, makeZip(t, m, testFile{"large", data}))
				text, err := from.Listing(root)
				if err != nil {
					t.Fatal(err)
				}
				staged, err := to.StageListing(t.Context(), m, root, text)
				if err != nil {
					t.Fatal(err)
				}
				defer staged.Close()
				raw, in, err := from.OpenRaw(verify.DigestOf(data))
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				stream, err := io.ReadAll(in)
				if err != nil {
					t.Fatal(err)
				}
				bad := bytes.Clone(stream)
				bad[len(bad)/2] ^= 1
				if err := to.PutRaw(t.Context(), raw, bytes.NewReader(bad)); !errors.Is(err, ErrBadFile) {
					t.Errorf("a flipped bit: %v", err)
				}
				if err := to.PutRaw(t.Context(), raw, bytes.NewReader(stream[:len(stream)-1])); err == nil {
					t.Error("half a stream was taken")
				}
				if missing, err := staged.Missing(); err != nil || len(missing) != 1 {
					t.Errorf("missing after two bad streams: %v, %v", missing, err)
				}
				if n := streamsKept(t, to); n != 0 {
					t.Errorf("%d chunks are there after two bad streams", n)
				}
				if err := to.PutRaw(t.Context(), raw, bytes.NewReader(stream)); err != nil {
					t.Fatal(err)
				}
				_, body, err := to.OpenRaw(raw.Sum)
				if err != nil {
					t.Fatal(err)
				}
				defer body.Close()
				if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, stream) {
					t.Errorf("%d bytes came back, %v; want the %d that went in", len(got), err, len(stream))
				}
				if memory && !to.spooled.TryAcquire(maxSpoolBytes) {
					t.Error("memory is still taken")
				}
			})
		}
	}
}

// streamsKept counts the chunks of all streams, seen or not.
func streamsKept(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{spaceChunk}, nil, false, func(*badger.Item) error { n++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStreamedPutEnds cuts a stream that is written while it is checked off by its
// context and by an error of its reader.
func TestStreamedPutEnds(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		cut  func(s *Store, cancel context.CancelFunc) error // what the reader returns
		want error
	}{
		{"the context ends", func(_ *Store, cancel context.CancelFunc) error { cancel(); return io.EOF }, context.Canceled},
		{"the reader fails", func(*Store, context.CancelFunc) error { return boom }, boom},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, t.TempDir(), smallOptions())
			if !s.spooled.TryAcquire(maxSpoolBytes) {
				t.Fatal("something waits already")
			}
			m := module.Version{Path: "example.test/large", Version: "v1.0.0"}
			data := noise(8 * chunkSize)
			zip := makeZip(t, m, testFile{"large", data})
			z, err := ScanZip(t.Context(), bytes.NewReader(zip), int64(len(zip)), m)
			if err != nil {
				t.Fatal(err)
			}
			staged, err := s.StageListing(t.Context(), m, z.Root, z.Listing.Encode())
			if err != nil {
				t.Fatal(err)
			}
			defer staged.Close()
			stream, _ := z.Stream(verify.DigestOf(data))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			whole := z.Open(stream)
			in := io.MultiReader(io.LimitReader(whole, 5*chunkSize), readerFunc(func([]byte) (int, error) {
				return 0, c.cut(s, cancel)
			}), whole)
			if err := s.PutRaw(ctx, stream.Raw, in); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if n := streamsKept(t, s); n != 0 {
				t.Errorf("%d chunks are there", n)
			}
			if err := s.PutRaw(t.Context(), stream.Raw, z.Open(stream)); err != nil {
				t.Fatal(err)
			}
			if n := streamsKept(t, s); n != int(chunks(stream.CompressedSize)) {
				t.Errorf("%d chunks are there of %d", n, chunks(stream.CompressedSize))
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
