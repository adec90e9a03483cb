package protocol

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

// Backend is what an office knows and can fetch. NewHandler asks it only for
// valid names. All methods may be called at the same time, return when ctx
// ends, and report an error as *Error where the status matters: 404 or 410 for
// what certainly does not exist, and never for what could not be reached.
type Backend interface {
	// File returns an immutable file: the same bytes every time.
	File(ctx context.Context, n verify.Name, o Options) (*Answer, error)
	// Query returns the .info of the canonical version that a branch, tag,
	// hash or hash prefix stands for now.
	Query(ctx context.Context, path, query string, o Options) (*Answer, error)
	// List returns the versions of a module as EncodeList writes them: no
	// pseudo-versions; empty if the module exists without tags.
	List(ctx context.Context, path string, o Options) (*Answer, error)
	// Latest returns the .info of the newest version of a module.
	Latest(ctx context.Context, path string, o Options) (*Answer, error)
	// SumDB answers for the checksum database of that name; sub has passed
	// CheckSumDBPath. A database that is not served is 404 to all of them.
	SumDB(ctx context.Context, name, sub string, o Options) (*Answer, error)
	// Index yields at most limit releases that arrived at since or later, in
	// order of arrival, and stops at the first error.
	Index(ctx context.Context, since time.Time, limit int) iter.Seq2[IndexEntry, error]
	// Catalog returns at most size releases in order of name from token on,
	// and the token of the next page, empty at the end. The first token is empty;
	// a token that was never handed out is an Error with status 400.
	Catalog(ctx context.Context, token string, size int) (entries []CatalogEntry, next string, err error)
}

// Options are a client's wishes.
type Options struct {
	CachedOnly bool // answer from what is held; 404 if nothing is
}

// Answer is the content of a successful answer: one of Data, Content and Stream,
// or Content with a Stream that writes all of it faster than it can be read. The
// handler closes it once it is done with it.
type Answer struct {
	Data    []byte        // small content; not changed afterwards. nil is empty content if Content and Stream are nil too
	Content io.ReadSeeker // large content that is held whole; Range works; an *os.File is sent by the kernel
	// Stream writes content that may still be arriving, and only verified bytes.
	// It stops when a write fails. An error from it after the first byte cuts the
	// connection, so that no client takes a part for the whole.
	Stream io.WriterTo
	Size   int64 // of Stream in bytes; negative if not known

	ETag    string        // strong, without quotes: equal only for equal bytes. Empty: made from Data, none for others
	Modtime time.Time     // Last-Modified; zero if not known
	Age     time.Duration // of a mutable answer: since it was known to be true
	Source  string        // where it came from, for the Meshproxy-Source header and logs: one word, may be empty
	From    string        // the same for people, with its name: "peer lisbon"
	Closer  io.Closer     // released after the answer; may be nil
}

// Close releases what the answer holds.
func (a *Answer) Close() error {
	if a.Closer == nil {
		return nil
	}
	return a.Closer.Close()
}

// IndexEntry is a line of /index.
type IndexEntry struct {
	Path      string
	Version   string
	Timestamp time.Time
}

// CatalogEntry is a release in /catalog, as Athens writes it.
type CatalogEntry struct {
	Module  string `json:"module"`
	Version string `json:"version"`
}
