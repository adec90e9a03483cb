package modzip

import (
	"archive/zip"
	"fmt"
	"io"
	"sort"
	"unicode/utf8"

	"github.com/meshproxy/meshproxy/verify"
)

// Entry is a file of a zip to be written: its full name and its raw stream.
type Entry struct {
	Name string
	Raw
}

// header is the zip header of an entry: no time, no mode, so that the bytes
// depend on the entry alone. A directory has no stream, whatever e says.
func (e Entry) header() *zip.FileHeader {
	const version20 = 20 // the version that knows DEFLATE and directories
	h := &zip.FileHeader{Name: e.Name, CreatorVersion: version20, ReaderVersion: version20}
	for i := 0; i < len(e.Name); i++ {
		if e.Name[i] >= utf8.RuneSelf {
			h.Flags |= 0x800 // the name is UTF-8
			break
		}
	}
	if IsDir(e.Name) {
		return h
	}
	h.Method, h.CRC32 = e.Method, e.CRC32
	h.CompressedSize64, h.UncompressedSize64 = uint64(e.CompressedSize), uint64(e.Size)
	return h
}

// Segment is a run of bytes of a zip: header bytes, or the stream of a file.
type Segment struct {
	Offset int64  // in the zip
	Size   int64  // bytes
	Header []byte // the bytes, or nil when the segment is the stream of Entry
	Entry  int    // index into the entries that the skeleton was made of
}

// Skeleton knows every byte of a zip but the streams.
type Skeleton struct {
	heads   []byte  // local headers, one after the other, then the central directory
	cut     []int   // header i is heads[cut[i]:cut[i+1]]; the last is the central directory
	at      []int64 // offset of header i in the zip
	streams []int64 // length of stream i
	size    int64
}

// NewSkeleton lays out the zip of entries, in their order.
func NewSkeleton(entries []Entry) (*Skeleton, error) {
	const fixed = 30 + 46 // bytes of a local header and of one in the directory
	heads := 0
	for _, e := range entries {
		heads += fixed + 2*len(e.Name)
	}
	s := &Skeleton{
		heads:   make([]byte, 0, heads+64),
		cut:     make([]int, 0, len(entries)+2),
		at:      make([]int64, 0, len(entries)+1),
		streams: make([]int64, 0, len(entries)),
	}
	c := capture{s: s}
	w := zip.NewWriter(&c)
	for _, e := range entries {
		if err := c.head(w); err != nil {
			return nil, err
		}
		h := e.header()
		body, err := w.CreateRaw(h)
		if err != nil {
			return nil, fmt.Errorf("zip header of %.300q: %w", e.Name, err)
		}
		if err := c.body(w, body, int64(h.CompressedSize64)); err != nil {
			return nil, fmt.Errorf("lay out %.300q: %w", e.Name, err)
		}
	}
	if err := c.head(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	s.cut = append(s.cut, len(s.heads))
	s.size = c.offset
	return s, nil
}

// Size is the length of the zip in bytes.
func (s *Skeleton) Size() int64 { return s.size }

// Weight is about the memory that the skeleton takes, in bytes.
func (s *Skeleton) Weight() int64 {
	return int64(cap(s.heads) + 8*cap(s.cut) + 8*cap(s.at) + 8*cap(s.streams))
}

// Find returns the segment that holds the byte at offset, which must be in
// [0, Size).
func (s *Skeleton) Find(offset int64) Segment {
	i := sort.Search(len(s.at), func(i int) bool { return s.at[i] > offset }) - 1
	head := s.Header(i)
	if body := s.at[i] + int64(len(head)); offset >= body {
		return Segment{Offset: body, Size: s.streams[i], Entry: i}
	}
	return Segment{Offset: s.at[i], Size: int64(len(head)), Header: head, Entry: i}
}

// Header returns the bytes before stream i: the local header of entry i, or the
// central directory when i is the number of entries.
func (s *Skeleton) Header(i int) []byte { return s.heads[s.cut[i]:s.cut[i+1]] }

// capture is the sink of a zip.Writer that keeps headers and counts streams.
type capture struct {
	s      *Skeleton
	offset int64
	inBody bool
}

func (c *capture) Write(p []byte) (int, error) {
	c.offset += int64(len(p))
	if !c.inBody {
		c.s.heads = append(c.s.heads, p...)
	}
	return len(p), nil
}

// head begins a run of header bytes.
func (c *capture) head(w *zip.Writer) error {
	err := w.Flush()
	c.inBody = false
	c.s.cut = append(c.s.cut, len(c.s.heads))
	c.s.at = append(c.s.at, c.offset)
	return err
}

var zeros [64 << 10]byte

// body has the writer count size bytes of a stream, which come from elsewhere.
func (c *capture) body(w *zip.Writer, dst io.Writer, size int64) error {
	err := w.Flush()
	c.inBody = true
	c.s.streams = append(c.s.streams, size)
	for err == nil && size > 0 {
		n := min(size, int64(len(zeros)))
		_, err = dst.Write(zeros[:n])
		size -= n
	}
	return err
}

// Writer writes the zip of a listing in order while its files arrive; its bytes
// are those of a Skeleton of the same entries.
type Writer struct{ w *zip.Writer }

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{zip.NewWriter(w)} }

// Add writes the header of e; then its stream must be written to what Add
// returns.
func (w *Writer) Add(e Entry) (io.Writer, error) { return w.w.CreateRaw(e.header()) }

// Flush passes on what is buffered.
func (w *Writer) Flush() error { return w.w.Flush() }

// Close writes the central directory.
func (w *Writer) Close() error { return w.w.Close() }

// Sums returns the files of a listing that have content to store, each sum once,
// in the order of the listing.
func Sums(l verify.Listing) []verify.File {
	seen := make(map[verify.Digest]struct{}, len(l.Files))
	files := make([]verify.File, 0, len(l.Files))
	for _, f := range l.Files {
		if _, ok := seen[f.Sum]; ok || IsDir(f.Name) {
			continue
		}
		seen[f.Sum] = struct{}{}
		files = append(files, f)
	}
	return files
}
