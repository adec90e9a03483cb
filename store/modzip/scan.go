package modzip

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sort"
	"strings"
	"sync/atomic"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/verify"
)

// MaxDirectory is the largest central directory that is read, in bytes. It
// bounds the memory that a hostile directory can take to about seven times that.
const MaxDirectory = 16 << 20

// maxWorkers bounds how many files of one zip are inflated at the same time.
const maxWorkers = 8

// Scanned is a module zip that passed every check. It reads from the ReaderAt
// that it was scanned from, which must stay open and unchanged.
type Scanned struct {
	Module  module.Version
	Listing verify.Listing
	Root    verify.Digest // the listing's h1
	Size    int64         // sum of the sizes of all files
	ZipSize int64         // bytes of the zip that was read

	r     io.ReaderAt
	files map[verify.Digest]Stream // one for each content, however often it occurs
}

// Stream is where a file's raw bytes stand in the scanned zip.
type Stream struct {
	Raw
	Offset int64         // of the first byte of the stream
	RawSum verify.Digest // SHA-256 of the stream itself: what was checked is what is read later
}

// Stream returns where the content with this sum stands; ok is false when the zip
// does not have it.
func (s *Scanned) Stream(sum verify.Digest) (st Stream, ok bool) {
	st, ok = s.files[sum]
	return st, ok
}

// Open reads a stream of the zip.
func (s *Scanned) Open(st Stream) *io.SectionReader {
	return io.NewSectionReader(s.r, st.Offset, st.CompressedSize)
}

// Scan reads a zip of size bytes that claims to be that of m, and checks all of
// it. An error about the zip is an ErrBadFile and names the file inside; an error
// of r is returned as it is.
func Scan(ctx context.Context, r io.ReaderAt, size int64, m module.Version) (*Scanned, error) {
	s := &scan{Scanned: Scanned{Module: m, ZipSize: size}, src: &readerAt{r: r, size: size, budget: -1}}
	s.r = r
	if err := s.run(ctx); err != nil {
		if s.src.err != nil {
			err = fmt.Errorf("read: %w", s.src.err)
		}
		return nil, fmt.Errorf("zip of %s: %w", m, err)
	}
	return &s.Scanned, nil
}

type scan struct {
	Scanned
	src     *readerAt
	entries []*zip.File
	spans   []span // of entries, in the same order
}

func (s *scan) run(ctx context.Context) error {
	if s.ZipSize < 0 || s.ZipSize > verify.MaxZip {
		return fmt.Errorf("%d bytes: at most %d allowed: %w", s.ZipSize, int64(verify.MaxZip), ErrBadFile)
	}
	if err := s.directory(); err != nil {
		return err
	}
	if err := s.declared(); err != nil {
		return err
	}
	var err error
	if s.spans, err = walk(s.src, s.ZipSize, s.entries); err != nil {
		return err
	}
	return s.contents(ctx)
}

// directory reads the central directory. archive/zip reads it to its end,
// however long it is, so its reader has a budget.
func (s *scan) directory() error {
	s.src.budget = MaxDirectory
	defer func() { s.src.budget = -1 }()
	z, err := zip.NewReader(s.src, s.ZipSize)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrBadFile)
	}
	if len(z.File) > MaxFiles {
		return fmt.Errorf("%d files: at most %d allowed: %w", len(z.File), MaxFiles, ErrBadFile)
	}
	s.entries = z.File
	return nil
}

// declared checks what the central directory says of each file.
func (s *scan) declared() error {
	names := make([]string, len(s.entries))
	left := uint64(verify.MaxZip)
	prefix := s.Module.Path + "@" + s.Module.Version + "/"
	for i, f := range s.entries {
		names[i] = f.Name
		if err := checkHeader(f, strings.TrimPrefix(f.Name, prefix)); err != nil {
			return fmt.Errorf("file %.300q: %w: %w", f.Name, err, ErrBadFile)
		}
		if f.UncompressedSize64 > left {
			return fmt.Errorf("file %.300q: all files together are over %d bytes: %w", f.Name, int64(verify.MaxZip), ErrBadFile)
		}
		left -= f.UncompressedSize64
	}
	s.Size = int64(verify.MaxZip - left)
	return CheckNames(s.Module, names)
}

func checkHeader(f *zip.File, name string) error {
	switch {
	case f.Flags&flagEncrypted != 0:
		return fmt.Errorf("is encrypted")
	case f.Method != zip.Store && f.Method != zip.Deflate:
		return fmt.Errorf("compression method %d: want stored or DEFLATE", f.Method)
	case f.CompressedSize64 > verify.MaxZip:
		return fmt.Errorf("stream of %d bytes", f.CompressedSize64)
	case f.Method == zip.Store && f.CompressedSize64 != f.UncompressedSize64:
		return fmt.Errorf("stored in %d bytes but %d bytes long", f.CompressedSize64, f.UncompressedSize64)
	case IsDir(f.Name) && f.UncompressedSize64 != 0:
		return fmt.Errorf("a directory with content")
	case !IsDir(f.Name) && f.Mode()&fs.ModeType != 0:
		return fmt.Errorf("is not a regular file: %v", f.Mode())
	case name == "go.mod" && f.UncompressedSize64 > maxGoMod:
		return fmt.Errorf("%d bytes: at most %d allowed", f.UncompressedSize64, maxGoMod)
	case name == "LICENSE" && f.UncompressedSize64 > maxLicense:
		return fmt.Errorf("%d bytes: at most %d allowed", f.UncompressedSize64, maxLicense)
	}
	return nil
}

// contents inflates and hashes every file, several at a time, and makes the
// listing.
func (s *scan) contents(ctx context.Context) error {
	streams := make([]Stream, len(s.entries))
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), maxWorkers, len(s.entries)) {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < len(s.entries); i = int(next.Add(1)) - 1 {
				var err error
				if streams[i], err = s.content(ctx, i); err != nil {
					return fmt.Errorf("file %.300q: %w", s.entries[i].Name, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.files = make(map[verify.Digest]Stream, len(streams))
	files := make([]verify.File, len(streams))
	for i, st := range streams {
		name := s.entries[i].Name
		files[i] = verify.File{Name: name, Sum: st.Sum}
		if !IsDir(name) {
			s.keep(st)
		}
	}
	var err error
	if s.Listing, err = verify.NewListing(files); err != nil {
		return fmt.Errorf("%w: %w", err, ErrBadFile)
	}
	s.Root = s.Listing.Digest()
	return nil
}

// keep remembers a stream, of several with the same content the shortest and,
// among those, the one with the least sum: the choice must not depend on the
// order in the zip.
func (s *scan) keep(st Stream) {
	old, ok := s.files[st.Sum]
	if !ok || st.CompressedSize < old.CompressedSize ||
		st.CompressedSize == old.CompressedSize && string(st.RawSum[:]) < string(old.RawSum[:]) {
		s.files[st.Sum] = st
	}
}

func (s *scan) content(ctx context.Context, i int) (Stream, error) {
	f, at := s.entries[i], s.spans[i]
	st := Stream{Offset: at.body, Raw: Raw{
		Method: f.Method, CRC32: f.CRC32,
		CompressedSize: int64(f.CompressedSize64), Size: int64(f.UncompressedSize64),
	}}
	h := newHashReader(io.NewSectionReader(s.src, st.Offset, st.CompressedSize))
	var err error
	if st.Sum, err = measure(ctx, st.Raw, h, io.Discard); err != nil {
		return st, err
	}
	st.RawSum = h.sum()
	return st, nil
}

// readerAt keeps the first error of r that is not an end of file, and can refuse
// to read more than a budget (none when negative).
type readerAt struct {
	r      io.ReaderAt
	size   int64
	budget int64
	err    error
	failed atomic.Bool
}

var errDirectory = fmt.Errorf("central directory of over %d bytes", MaxDirectory)

func (s *readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > s.size {
		return 0, fmt.Errorf("offset %d in a zip of %d bytes", off, s.size) // it is the zip that says so
	}
	if s.budget >= 0 {
		if s.budget -= int64(len(p)); s.budget < 0 {
			s.budget = 0
			return 0, errDirectory
		}
	}
	n, err := s.r.ReadAt(p, off)
	if err != nil && err != io.EOF && s.failed.CompareAndSwap(false, true) {
		s.err = err
	}
	return n, err
}

// sortSpans puts the indices of entries in the order in which they stand.
func sortSpans(bodies []int64) []int {
	order := make([]int, len(bodies))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return bodies[order[a]] < bodies[order[b]] })
	return order
}

// CheckRaw reports whether r gives the very stream that was scanned.
func (st Stream) CheckRaw(r io.Reader) error {
	h := newHashReader(io.LimitReader(r, st.CompressedSize))
	if _, err := io.Copy(io.Discard, h); err != nil {
		return err
	}
	if h.sum() != st.RawSum {
		return fmt.Errorf("file %s: the zip changed while it was read: %w", st.Sum, ErrBadFile)
	}
	return nil
}
