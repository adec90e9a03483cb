package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

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
