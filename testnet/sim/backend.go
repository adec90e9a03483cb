package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// backend is what one member holds: exchange.Backend in memory. It remembers what
// it holds; the bytes themselves are in the world once, whoever holds them. What it
// is given is checked all the same.
type backend struct {
	w *World

	mu        sync.RWMutex // guards what follows
	records   map[verify.Name]*verify.Signed
	listings  map[verify.Digest]bool
	files     map[verify.Digest]bool
	zips      map[verify.Digest]bool // complete
	answers   map[string]answer
	envelopes int // bytes in records
}

type answer struct {
	value []byte
	at    time.Time
}

func newBackend(w *World) *backend {
	return &backend{
		w: w, records: map[verify.Name]*verify.Signed{}, listings: map[verify.Digest]bool{},
		files: map[verify.Digest]bool{}, zips: map[verify.Digest]bool{}, answers: map[string]answer{},
	}
}

func missing(what any) error { return fmt.Errorf("%v: %w", what, store.ErrNotFound) }

// Record implements exchange.Backend.
func (b *backend) Record(n verify.Name) (*verify.Signed, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if s := b.records[n]; s != nil {
		return s, nil
	}
	return nil, missing(n)
}

// HasZip implements exchange.Backend.
func (b *backend) HasZip(root verify.Digest) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.zips[root]
}

// Listing implements exchange.Backend.
func (b *backend) Listing(root verify.Digest) ([]byte, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !b.listings[root] {
		return nil, missing(root)
	}
	return b.w.listings[root], nil
}

// OpenRaw implements exchange.Backend.
func (b *backend) OpenRaw(sum verify.Digest) (modzip.Raw, io.ReadCloser, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !b.files[sum] {
		return modzip.Raw{}, nil, missing(sum)
	}
	c := b.w.contents[sum]
	return c.raw, io.NopCloser(bytes.NewReader(c.data)), nil
}

// PutRaw implements exchange.Backend.
func (b *backend) PutRaw(ctx context.Context, f modzip.Raw, r io.Reader) error {
	if err := f.Verify(ctx, r); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files[f.Sum] = true
	return nil
}

// PutContents implements exchange.Backend.
func (b *backend) PutContents(_ context.Context, contents []modzip.Content) error {
	for _, c := range contents {
		if verify.DigestOf(c.Data) != c.Sum {
			return fmt.Errorf("file %v: %w", c.Sum, modzip.ErrBadFile)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range contents {
		b.files[c.Sum] = true
	}
	return nil
}

// Accept implements exchange.Backend: every signed statement of a member is
// believed, unless another one was there first.
func (b *backend) Accept(_ context.Context, _ peer.ID, s *verify.Signed) error {
	s = b.w.intern(s)
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.records[s.Record.Name]
	switch {
	case have == nil:
		b.records[s.Record.Name] = s
		b.envelopes += len(s.Envelope)
	case have.Record.Digest != s.Record.Digest:
		return &store.ConflictError{Name: s.Record.Name, Have: have, Got: s}
	}
	return nil
}

// Answer implements exchange.Backend.
func (b *backend) Answer(key string) ([]byte, time.Time, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	a, ok := b.answers[key]
	if !ok {
		return nil, time.Time{}, missing(key)
	}
	return a.value, a.at, nil
}

// KeepAnswer implements exchange.Backend.
func (b *backend) KeepAnswer(_ context.Context, _ peer.ID, key string, value []byte, at time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[key] = answer{value, at}
	return nil
}

// stage notes a listing and returns the files of it that are not here.
func (b *backend) stage(text []byte) ([]verify.File, error) {
	l, err := verify.ParseListing(text)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listings[verify.DigestOf(text)] = true
	var lacking []verify.File
	for _, f := range l.Files {
		if !b.files[f.Sum] {
			lacking = append(lacking, f)
		}
	}
	return lacking, nil
}

// commit notes that a zip is complete, if it is.
func (b *backend) commit(root verify.Digest) error {
	l, err := verify.ParseListing(b.w.listings[root])
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range l.Files {
		if !b.files[f.Sum] {
			return fmt.Errorf("commit %v: %s is not here", root, f.Name)
		}
	}
	b.listings[root], b.zips[root] = true, true
	return nil
}

// fetched notes all files of a release, as after a first fetch.
func (b *backend) fetched(r *Release) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range r.files {
		b.files[f.Sum] = true
	}
	b.listings[r.root], b.zips[r.root] = true, true
}

// holds reports whether a file can be served.
func (b *backend) holds(n verify.Name) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s := b.records[n]
	return s != nil && (n.Kind != verify.Zip || b.zips[s.Record.Digest])
}

// names lists every record.
func (b *backend) names() []verify.Name {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]verify.Name, 0, len(b.records))
	for n := range b.records {
		all = append(all, n)
	}
	return all
}
