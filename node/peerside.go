package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// peerSide is this office as the exchange sees it: what it has, without asking
// anybody. It implements exchange.Backend.
type peerSide struct{ n *Node }

// absent turns the store's "not found" into the one of the interfaces above it.
func absent(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// Record implements exchange.Backend. A record that others cannot believe, although
// this node did when it came, is stated anew.
func (s peerSide) Record(name verify.Name) (*verify.Signed, error) {
	signed, err := s.n.store.Record(name)
	if err != nil {
		return nil, err
	}
	alone := signed.Record.Vouch.Proof == nil && (name.Kind == verify.Info || !s.n.trust().Public(name.Module.Path))
	return restated(s.n.mesh, signed, alone)
}

// HasZip implements exchange.Backend.
func (s peerSide) HasZip(root verify.Digest) bool { return s.n.store.HasZip(root) }

// Listing implements exchange.Backend.
func (s peerSide) Listing(root verify.Digest) ([]byte, error) {
	return s.n.store.Listing(root)
}

// OpenRaw implements exchange.Backend.
func (s peerSide) OpenRaw(sum verify.Digest) (store.RawFile, io.ReadCloser, error) {
	return s.n.store.OpenRaw(sum)
}

// PutRaw implements exchange.Backend.
func (s peerSide) PutRaw(ctx context.Context, f store.RawFile, r io.Reader) error {
	return s.n.store.PutRaw(ctx, f, r)
}

// PutContents implements exchange.Backend.
func (s peerSide) PutContents(ctx context.Context, contents []modzip.Content) error {
	return s.n.store.PutContents(ctx, contents)
}

// Accept implements exchange.Backend.
func (s peerSide) Accept(ctx context.Context, from peer.ID, signed *verify.Signed) error {
	err := s.n.accept(ctx, from, signed, nil)
	if r := &signed.Record; !isPolicy(err) || r.Vouch.Proof == nil && r.Name.Kind != verify.Info && s.n.trust().Public(r.Name.Module.Path) {
		return err // a database would have to be asked, and no question leaves this office for what it does not want
	}
	if s.n.trust().CheckSigned(ctx, signed) != nil {
		return err
	}
	return fmt.Errorf("%w: %w", exchange.ErrUnwanted, err)
}

// Answer implements exchange.Backend.
func (s peerSide) Answer(key string) (value []byte, at time.Time, err error) {
	if name, sub, ok := strings.Cut(key, sumdbInfix); ok {
		return s.sumdb(name, sub)
	}
	return s.n.store.Mutable(key)
}

// sumdb answers from the cache of a checksum database. What is there does not
// change, but for the tree head, which the asker compares.
func (s peerSide) sumdb(name, sub string) ([]byte, time.Time, error) {
	if err := protocol.CheckSumDBPath(sub); err != nil {
		return nil, time.Time{}, err
	}
	data, err := s.n.trust().SumDB(context.Background(), name, sub, verify.ServeOptions{CachedOnly: true})
	if err != nil {
		return nil, time.Time{}, err
	}
	return data, time.Now(), nil
}

// KeepAnswer implements exchange.Backend.
func (s peerSide) KeepAnswer(_ context.Context, from peer.ID, key string, value []byte, at time.Time) error {
	if err := checkAnswer(key, value); err != nil {
		return fmt.Errorf("answer of %s: %w", s.n.officeOf(from), err)
	}
	if now := time.Now(); at.After(now) {
		at = now // a clock that runs ahead must not make an answer last
	}
	if _, have, err := s.n.store.Mutable(key); err == nil && !at.After(have) {
		return nil
	}
	return s.n.store.SetMutable(key, value, at)
}

// checkAnswer reports whether value can be the answer for a key. Nothing vouches
// for mutable answers: that they make sense is all that can be asked of them.
func checkAnswer(key string, value []byte) error {
	path, rest, _ := strings.Cut(key, " ")
	kind, query, _ := strings.Cut(rest, " ")
	switch kind {
	case "list":
		if len(value) > protocol.MaxList {
			return fmt.Errorf("list of %s with %d bytes: at most %d allowed", path, len(value), protocol.MaxList)
		}
		return nil
	case "latest", "query":
		_, err := protocol.ParseInfo(path, query, value)
		return err
	}
	return fmt.Errorf("answers are not kept for %.200q", key)
}
