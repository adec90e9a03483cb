package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// source makes text that deflates about as Go source does, to a quarter.
func source(r *rand.Rand, size int) []byte {
	words := []string{"func ", "return ", "err != nil ", "{\n\t", "}\n", "context.Context, ", "string ", "if ", "for _, "}
	var b bytes.Buffer
	for b.Len() < size {
		b.WriteString(words[r.IntN(len(words))])
		if r.IntN(3) == 0 {
			fmt.Fprintf(&b, "v%x ", r.Uint32N(1<<16))
		}
	}
	return b.Bytes()[:size]
}

// manyFiles is a zip of n small files; the size spread is that of source trees.
func manyFiles(b testing.TB, m module.Version, n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	files := make([]testFile, n)
	for i := range files {
		files[i] = testFile{fmt.Sprintf("service/pkg%03d/file%05d.go", i/100, i), source(r, 500+r.IntN(12_000))}
	}
	return makeZip(b, m, files...)
}

func benchOptions() Options { return Options{ScrubRate: -1} }

func BenchmarkIngest(b *testing.B) {
	s := openTest(b, b.TempDir(), benchOptions())
	zips := make([][]byte, b.N)
	mods := make([]module.Version, b.N)
	total := 0
	for i := range zips {
		mods[i] = module.Version{Path: "example.test/m", Version: fmt.Sprintf("v1.%d.0", i)}
		zips[i] = manyFiles(b, mods[i], 2000, uint64(i))
		total += len(zips[i])
	}
	b.SetBytes(int64(total / b.N))
	b.ResetTimer()
	done := cpuRate(b)
	for i := range zips {
		putZip(b, s, mods[i], zips[i])
	}
	done(int64(total))
}

func BenchmarkScan(b *testing.B) {
	data := manyFiles(b, m1, 2000, 1)
	b.SetBytes(int64(len(data)))
	done := cpuRate(b)
	for b.Loop() {
		if _, err := ScanZip(context.Background(), bytes.NewReader(data), int64(len(data)), m1); err != nil {
			b.Fatal(err)
		}
	}
	done(int64(b.N * len(data)))
}

// BenchmarkAssemble reads a zip of 11,000 small files from the first byte to the
// last, with the index of the zip in the cache and without, and after a restart.
func BenchmarkAssemble(b *testing.B) {
	dir := b.TempDir()
	s, err := Open(dir, benchOptions())
	if err != nil {
		b.Fatal(err)
	}
	root := putZip(b, s, m1, manyFiles(b, m1, 11_000, 1))
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	s = openTest(b, dir, benchOptions())
	for _, tc := range []struct {
		name string
		cold bool
		read func(z *ZipFile) (int64, error)
	}{
		{"32KiB reads", false, func(z *ZipFile) (int64, error) {
			return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{z}, make([]byte, 32<<10))
		}},
		{"WriteTo", false, func(z *ZipFile) (int64, error) { return z.WriteTo(io.Discard) }},
		{"index not cached", true, func(z *ZipFile) (int64, error) {
			return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{z}, make([]byte, 32<<10))
		}},
		{"open only, index not cached", true, func(z *ZipFile) (int64, error) { return z.Size(), nil }},
	} {
		b.Run(tc.name, func(b *testing.B) {
			done := cpuRate(b)
			var total int64
			for b.Loop() {
				if tc.cold {
					s.cache.zips.remove(root)
				}
				z, err := s.OpenZip(root)
				if err != nil {
					b.Fatal(err)
				}
				n, err := tc.read(z)
				z.Close()
				if err != nil || n != z.Size() {
					b.Fatal(n, err)
				}
				b.SetBytes(n)
				total += n
			}
			done(total)
		})
	}
}

func BenchmarkRecord(b *testing.B) {
	s := openTest(b, b.TempDir(), benchOptions())
	r := modRecord(b, m1, "")
	if err := s.Commit(context.Background(), r, nil); err != nil {
		b.Fatal(err)
	}
	for _, cached := range []bool{true, false} {
		b.Run(fmt.Sprintf("cached=%v", cached), func(b *testing.B) {
			for b.Loop() {
				if !cached {
					s.cache.records.remove(r.Record.Name)
				}
				if _, err := s.Record(r.Record.Name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCommit is the cost of an acknowledged, synced record, alone and with
// others at the same time, which share syncs.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openTest(b, b.TempDir(), benchOptions())
			records := make([]*verify.Signed, b.N)
			for i := range records {
				records[i] = infoRecord(b, module.Version{Path: "example.test/m", Version: fmt.Sprintf("v1.%d.0", i)}, "")
			}
			b.SetParallelism(max(1, writers/runtime.GOMAXPROCS(0)))
			b.ResetTimer()
			before := s.syncCount.Load()
			var next atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := s.Commit(context.Background(), records[next.Add(1)-1], nil); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(s.syncCount.Load()-before)/float64(b.N), "syncs/op")
		})
	}
}

// BenchmarkOpen opens a store of 10,000 releases, each with info, go.mod and a
// zip of 20 files, as it was closed, and as SIGKILL leaves it.
func BenchmarkOpen(b *testing.B) {
	const releases = 10_000
	dir := b.TempDir()
	s, err := Open(dir, benchOptions())
	if err != nil {
		b.Fatal(err)
	}
	fillReleases(b, s, releases)
	filled := heap()
	killed := b.TempDir() // a copy of an open store is what a kill leaves
	copyDir(b, dir, killed)
	disk := s.DiskUsage()
	acct := s.Accounting()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.Logf("heap %d MiB after filling, disk %d MiB, %+v", filled>>20, disk>>20, acct)
	if s, err = Open(dir, benchOptions()); err != nil {
		b.Fatal(err)
	}
	b.Logf("heap %d MiB after opening", heap()>>20)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("after Close", func(b *testing.B) {
		for b.Loop() {
			s, err := Open(dir, benchOptions())
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
	})
	b.Run("after a kill", func(b *testing.B) {
		var used time.Duration
		for b.Loop() {
			b.StopTimer()
			again := b.TempDir()
			copyDir(b, killed, again)
			b.StartTimer()
			start := cpuTime()
			s, err := Open(again, benchOptions())
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			used += cpuTime() - start
			s.Close()
			os.RemoveAll(again)
			b.StartTimer()
		}
		b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
	})
}

// heap is what is in use of it after a collection, in bytes.
func heap() uint64 {
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

func fillReleases(b testing.TB, s *Store, n int) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		m := module.Version{Path: fmt.Sprintf("example.test/m%d", i/20), Version: fmt.Sprintf("v1.%d.0", i%20)}
		files := make([]testFile, 20)
		for j := range files {
			files[j] = testFile{fmt.Sprintf("f%d.go", j), source(r, 500+r.IntN(3000))}
		}
		for _, rec := range []*verify.Signed{infoRecord(b, m, ""), modRecord(b, m, "")} {
			if err := s.Commit(context.Background(), rec, nil); err != nil {
				b.Fatal(err)
			}
		}
		putZip(b, s, m, makeZip(b, m, files...))
	}
}

// copyDir copies the directory of an open store, which gives what a kill leaves,
// if nothing was written, flushed or compacted meanwhile: else it begins again.
func copyDir(b testing.TB, from, to string) {
	b.Helper()
	for {
		before := listFiles(from)
		err := os.CopyFS(to, os.DirFS(from))
		if listFiles(from) == before {
			if err != nil {
				b.Fatal(err)
			}
			return
		}
		if err := os.RemoveAll(to); err != nil {
			b.Fatal(err)
		}
	}
}

// listFiles tells the files below dir and their sizes.
func listFiles(dir string) string {
	var list strings.Builder
	_ = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintln(&list, err)
			return nil
		}
		if info, err := d.Info(); err == nil {
			fmt.Fprintln(&list, name, info.Size())
		}
		return nil
	})
	return list.String()
}
