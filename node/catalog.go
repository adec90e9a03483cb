package node

import (
	"context"
	"iter"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
)

// Index implements protocol.Backend.
func (n *Node) Index(_ context.Context, since time.Time, limit int) iter.Seq2[protocol.IndexEntry, error] {
	return func(yield func(protocol.IndexEntry, error) bool) {
		entries, err := n.store.Index(since, limit)
		if err != nil {
			yield(protocol.IndexEntry{}, n.failed(err))
			return
		}
		for _, e := range entries {
			if !yield(protocol.IndexEntry{Path: e.Module.Path, Version: e.Module.Version, Timestamp: e.At}, nil) {
				return
			}
		}
	}
}

// Catalog implements protocol.Backend.
func (n *Node) Catalog(_ context.Context, token string, size int) ([]protocol.CatalogEntry, string, error) {
	releases, next, err := n.store.Catalog(token, size)
	if err != nil {
		return nil, "", n.failed(err)
	}
	entries := make([]protocol.CatalogEntry, len(releases))
	for i, m := range releases {
		entries[i] = protocol.CatalogEntry{Module: m.Path, Version: m.Version}
	}
	return entries, next, nil
}
