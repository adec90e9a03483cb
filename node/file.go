package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// How long the work for one file may take. A zip of MaxZip over a slow link is
// let through; one that stalls is given up by whoever reads it.
const (
	smallLimit = 5 * time.Minute
	zipLimit   = 4 * time.Hour
)

// File implements protocol.Backend.
func (n *Node) File(ctx context.Context, name verify.Name, o protocol.Options) (*protocol.Answer, error) {
	if !o.CachedOnly {
		n.foresee(ctx, name)
	}
	a, err := n.held(name)
	if err == nil {
		return n.answered(a, origin{kind: fromStore}), nil
	}
	if isRefusal(err) {
		return nil, n.failed(err)
	}
	if !errors.Is(err, store.ErrNotFound) {
		n.log.Error("the store cannot give what it holds; fetching it again", "file", name.String(), "err", err)
	}
	if o.CachedOnly {
		return nil, n.failed(protocol.NotFound("%s is not held by office %s, and the request forbids to fetch it", name, n.Office()))
	}
	part, from, err := n.arrive(ctx, name)
	if errors.Is(err, errAhead) {
		part, from, err = n.arrive(ctx, name)
	}
	if err != nil {
		return nil, n.failed(err)
	}
	switch t := part.(type) {
	case origin: // it can be read; that it is safe on disk, others wait for
		from = t
	case *transit:
		if a, ok := t.answer(ctx, func(bytes int64) { n.counts.tally(t.from.String()).bytes.Add(bytes) }); ok {
			return n.answered(a, t.from), nil
		}
		<-t.landed // at this moment
	}
	if a, err = n.held(name); err != nil {
		return nil, n.failed(fmt.Errorf("%s arrived, but: %w", name, err))
	}
	return n.answered(a, from), nil
}

// arrive has a file obtained by the one piece of work that there is for it.
func (n *Node) arrive(ctx context.Context, name verify.Name) (part any, from origin, err error) {
	return n.arrivals.first(ctx, flightKey(ctx, name.String()), limitOf(name.Kind), func(ctx context.Context, publish func(any)) (origin, error) {
		return n.obtain(ctx, name, publish)
	})
}

func limitOf(k verify.Kind) time.Duration {
	if k == verify.Zip {
		return zipLimit
	}
	return smallLimit
}

// flightKey keeps requests apart that came through different nodes: joined, two
// nodes that ask each other could wait for each other.
func flightKey(ctx context.Context, what string) string {
	if hops := protocol.Hops(ctx); hops != "" {
		return what + " via " + hops
	}
	return what
}

// answered counts a success and says where it came from.
func (n *Node) answered(a *protocol.Answer, from origin) *protocol.Answer {
	a.Source, a.From = from.kind, from.String()
	size := max(0, a.Size) // of a stream it is not known yet
	if a.Data != nil {
		size = int64(len(a.Data))
	}
	n.counts.add(from.String(), size)
	return a
}

// failed counts an error that a client hears. That there is no room comes before what
// could not be done without: a checksum database was there, but its tree head could
// not be kept.
func (n *Node) failed(err error) error {
	n.counts.errors.Add(1)
	if errors.Is(err, store.ErrFull) {
		return protocol.Errorf(http.StatusInsufficientStorage, "the disk of this office is full, so that it serves only what it holds: %w", err)
	}
	return err
}

// held answers from the store; store.ErrNotFound if it does not hold the file.
func (n *Node) held(name verify.Name) (*protocol.Answer, error) {
	signed, err := n.store.Record(name)
	if err != nil {
		return nil, err
	}
	rec := &signed.Record
	if p, ok := n.pins.Lookup(name); ok && p.Digest != rec.Digest {
		return nil, refused(name, n.trust().CheckPin(name, rec.Digest, "what is held here"))
	}
	a := &protocol.Answer{Modtime: rec.Fetched}
	if name.Kind == verify.Zip {
		z, err := n.store.OpenZip(rec.Digest)
		if err != nil {
			return nil, err
		}
		a.Content, a.Stream, a.Size, a.Closer, a.ETag = z, z, z.Size(), z, z.ETag()
		return a, nil
	}
	a.Data, a.Size, a.ETag = rec.Data, rec.Size, rec.Digest.Hex()
	return a, nil
}

// obtain brings a file into the store: from another office, or else from the
// world outside. publish, if it is not nil, is told of a *transit when a large zip
// begins to arrive, or of the origin when the file can be read, whichever is first.
func (n *Node) obtain(ctx context.Context, name verify.Name, publish func(any)) (from origin, err error) {
	if n.has(name) {
		return origin{kind: fromStore}, nil // it came while this request was on its way here
	}
	e := errand{Node: n, name: name, publish: publish}
	defer func() { e.land(err) }()
	ctx, span := n.part(ctx, "obtain", name.String())
	defer func() { sourced(span, from, err) }()
	start := time.Now()
	from, err = e.fromMesh(ctx)
	if err != nil {
		from, err = e.firstFetch(ctx, err)
	}
	if err != nil {
		n.log.Info("not obtained", "file", name.String(), "request", protocol.RequestID(ctx), "took", time.Since(start), "err", err)
		return origin{}, err
	}
	n.log.Info("obtained", "file", name.String(), "request", protocol.RequestID(ctx), "from", from.String(), "took", time.Since(start))
	return from, nil
}

// has reports whether the store can serve the file.
func (n *Node) has(name verify.Name) bool {
	return holds(n.store, name)
}

// isRefusal reports whether an error says that the content itself is not to be
// served, so that asking somebody else for it is no remedy.
func isRefusal(err error) bool {
	return errors.Is(err, verify.ErrMismatch) || errors.Is(err, store.ErrConflict) || errors.Is(err, verify.ErrSecurity)
}
