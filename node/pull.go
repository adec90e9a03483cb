package node

import (
	"context"
	"errors"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// maxBases is how many other versions of a module are offered as something that
// the listing may be told as a difference to.
const maxBases = 4

// errand is the work for one file.
type errand struct {
	*Node
	name    verify.Name
	class   exchange.Class // who waits for it
	publish func(any)      // nil: nobody wants a part before the whole, or to hear of it before it is safe
	transit *transit       // nil until one is published
}

// arrived publishes that the file that is wanted can be read, from where it came.
func (n *errand) arrived(from origin) {
	if n.publish != nil {
		n.publish(from)
	}
}

// land ends the errand: clients that were given a part hear what became of the
// rest.
func (n *errand) land(err error) {
	if t := n.transit; t != nil {
		t.err = err
		close(t.landed)
		t.close()
	}
}

// depart publishes a zip that has begun to arrive, if it is large. It reports
// whether staged is now closed by land.
func (n *errand) depart(signed *verify.Signed, holders []peer.ID, staged *store.Staged, t *exchange.Transfer) bool {
	if n.publish == nil || n.transit != nil || n.policy.HasCommand() || signed.Record.Size < minStreamed {
		return false
	}
	n.transit = newTransit(staged, t, origin{fromPeer, n.officeOf(first(holders, signed.Signer))})
	n.publish(n.transit)
	return true
}

// pull brings the files of a zip, whose record was admitted, from other offices
// into the store. When the rest fails, what has arrived waits for the next try.
func (n *errand) pull(ctx context.Context, signed *verify.Signed, holders []peer.ID) (from origin, err error) {
	rec := &signed.Record
	ctx, span := n.part(ctx, "pull", rec.Name.String())
	defer func() { sourced(span, from, err) }()
	var staged *store.Staged
	t, err := n.exchange().Begin(ctx, exchange.PullRequest{
		Module: rec.Name.Module, Root: rec.Digest, Holders: holders, Size: rec.Size, Class: n.class,
		Bases: n.bases(rec),
		Stage: func(ctx context.Context, listing []byte) (missing []verify.File, err error) {
			if staged, err = n.store.StageListing(ctx, rec.Name.Module, rec.Digest, listing); err != nil {
				return nil, err
			}
			return staged.Missing()
		},
	})
	if err == nil && !n.depart(signed, holders, staged, t) || err != nil && staged != nil {
		defer staged.Close()
	}
	if err != nil {
		return origin{}, err
	}
	stats, err := t.Done(ctx)
	if err != nil {
		n.spare(ctx, staged, err)
		return origin{}, err
	}
	if err := n.judgeStaged(ctx, rec, staged); err != nil {
		return origin{}, err
	}
	from = origin{fromPeer, n.officeOf(most(stats.From, signed.Signer))}
	if err := n.commit(ctx, signed, staged, func() { n.arrived(from) }); err != nil {
		return origin{}, err
	}
	n.tell(signed)
	n.received(stats)
	span.SetAttributes(attribute.Int("meshproxy.files", stats.Files), attribute.Int64("meshproxy.bytes", stats.Bytes),
		attribute.Int64("meshproxy.wasted", stats.Wasted), attribute.Int("meshproxy.peers", len(stats.From)))
	n.log.Info("pulled", "file", rec.Name.String(), "from", from.who, "files", stats.Files, "bytes", stats.Bytes,
		"wasted", stats.Wasted, "peers", len(stats.From), "took", stats.Took)
	return from, nil
}

// received counts what a transfer brought.
func (n *Node) received(stats exchange.PullStats) {
	n.counts.receive(stats.From)
	n.activity.received(stats.Bytes)
}

// most is the peer that sent the most; otherwise nobody had to send anything.
func most(from map[peer.ID]int64, otherwise peer.ID) peer.ID {
	best, bytes := otherwise, int64(-1)
	for p, n := range from {
		if n > bytes {
			best, bytes = p, n
		}
	}
	return best
}

// bases are the roots of other versions of the module that are held.
func (n *Node) bases(rec *verify.Record) []verify.Digest {
	versions, err := n.store.Versions(rec.Name.Module.Path)
	if err != nil {
		return nil // it only saves bytes
	}
	var roots []verify.Digest
	for i := len(versions) - 1; i >= 0 && len(roots) < maxBases; i-- {
		name := rec.Name
		name.Module.Version = versions[i]
		if other, err := n.store.Record(name); err == nil && n.store.HasZip(other.Record.Digest) {
			roots = append(roots, other.Record.Digest)
		}
	}
	return roots
}

// tell has the mesh told of a record that was admitted, if the bytes are here.
func (n *Node) tell(s *verify.Signed) { n.news.add(s) }

// push tells the home peers of each name, and announces the zips in the DHT.
func (n *Node) push(ctx context.Context, batch []*verify.Signed) {
	var roots []verify.Digest
	for _, s := range batch {
		if s.Record.Name.Kind == verify.Zip && n.exchange().Public(s.Record.Name.Module.Path) {
			roots = append(roots, s.Record.Digest)
		}
	}
	if err := n.mesh.Announce(ctx, roots...); err != nil {
		n.log.Warn("cannot announce to the mesh", "zips", len(roots), "err", err)
	}
	if known, _ := n.reach(); known == 0 {
		return
	}
	held := func(s *verify.Signed) bool { return n.has(s.Record.Name) }
	ctx, span := n.own(ctx, "push", batch[0].Record.Name.String())
	span.SetAttributes(attribute.Int("meshproxy.names", len(batch)))
	results, err := n.exchange().Push(ctx, batch, held)
	ended(span, err)
	if err != nil {
		n.log.Debug("not every home peer was told", "records", len(batch), "err", err)
	}
	for _, r := range results {
		if r.Status == exchange.PushConflict && r.Have != nil {
			n.evidence(ctx, r)
		}
	}
}

// evidence keeps the record of another office that disagrees with the one that
// this office holds.
func (n *Node) evidence(ctx context.Context, r exchange.PushResult) {
	if err := n.accept(ctx, r.Peer, r.Have, nil); err != nil && !errors.Is(err, store.ErrConflict) {
		n.log.Warn("another office holds something else, and cannot show why", "file", r.Name.String(),
			"office", n.officeOf(r.Peer), "err", err)
	}
}
