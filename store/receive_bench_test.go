package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/verify"
)

// arriving is a zip whose files come one by one, as from another office.
type arriving struct {
	mod     module.Version
	root    verify.Digest
	size    int64
	listing []byte
	streams map[verify.Digest][]byte
	files   map[verify.Digest]RawFile
}

func newArriving(b *testing.B, i int) *arriving {
	m := module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}
	r := rand.New(rand.NewPCG(uint64(i), 7))
	files := make([]testFile, 60)
	for j := range files {
		files[j] = testFile{fmt.Sprintf("pkg%d/file%03d.go", j/10, j), source(r, 500+r.IntN(12_000))}
	}
	data := makeZip(b, m, files...)
	z, err := ScanZip(context.Background(), bytes.NewReader(data), int64(len(data)), m)
	if err != nil {
		b.Fatal(err)
	}
	a := &arriving{m, z.Root, z.Size, z.Listing.Encode(), make(map[verify.Digest][]byte), make(map[verify.Digest]RawFile)}
	for _, f := range z.Listing.Files {
		stream, _ := z.Stream(f.Sum)
		if a.streams[f.Sum], err = io.ReadAll(z.Open(stream)); err != nil {
			b.Fatal(err)
		}
		a.files[f.Sum] = stream.Raw
	}
	return a
}

// BenchmarkReceive takes 200 zips of 60 small files from other offices, eight at a
// time, and writes each to a client while it arrives.
func BenchmarkReceive(b *testing.B) {
	zips := make([]*arriving, 200)
	files := 0
	for i := range zips {
		zips[i] = newArriving(b, i)
		files += len(zips[i].files)
	}
	var used time.Duration
	for b.Loop() {
		b.StopTimer()
		s := openTest(b, b.TempDir(), benchOptions())
		b.StartTimer()
		used -= cpuTime()
		var g errgroup.Group
		g.SetLimit(8)
		for _, a := range zips {
			g.Go(func() error { return a.receive(b, s) })
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
		used += cpuTime()
	}
	b.ReportMetric(float64(used.Microseconds())/float64(b.N*files), "cpu-µs/file")
}

func (a *arriving) receive(b *testing.B, s *Store) error {
	ctx := context.Background()
	st, err := s.StageListing(ctx, a.mod, a.root, a.listing)
	if err != nil {
		return err
	}
	defer st.Close()
	missing, err := st.Missing()
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, f := range missing {
		g.Go(func() error { return s.PutRaw(ctx, a.files[f.Sum], bytes.NewReader(a.streams[f.Sum])) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.Commit(ctx, zipRecord(b, a.mod, a.root, a.size), st); err != nil {
		return err
	}
	return st.WriteTo(ctx, io.Discard, nil)
}
