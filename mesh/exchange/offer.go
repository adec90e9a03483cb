package exchange

import (
	"context"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// minOffered is how many records are offered before they are handed over: fewer are
// not worth another round trip.
const minOffered = 4

// offer asks a peer which of some records it knows with the same digests, and tells it
// that their files are held here. It returns those that are to be handed over, and the
// results of the others. A peer that does not answer knows none.
func (x *Exchange) offer(ctx context.Context, p peer.ID, batch []*verify.Signed, held func(*verify.Signed) bool) (rest []*verify.Signed, results []PushResult) {
	var offered []*verify.Signed
	for _, s := range batch {
		if held != nil && held(s) {
			offered = append(offered, s)
		} else {
			rest = append(rest, s)
		}
	}
	if len(offered) < minOffered {
		return batch, nil
	}
	same, err := x.offerAll(ctx, p, offered)
	if err != nil {
		x.log.Debug("a peer that was offered records did not answer", "peer", p, "records", len(offered), "err", err)
		return batch, nil
	}
	for i, s := range offered {
		if same[i] {
			results = append(results, PushResult{Peer: p, Name: s.Record.Name, Status: PushKnown})
		} else {
			rest = append(rest, s)
		}
	}
	return rest, results
}

func (x *Exchange) offerAll(ctx context.Context, p peer.ID, offered []*verify.Signed) (same []bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	l, stop, err := x.open(ctx, p, RecordsID, Background)
	if err != nil {
		return nil, err
	}
	defer func() { stop(err) }()
	req := recordsRequest{Holding: true, Trace: l.traceparent()}
	for _, s := range offered {
		req.Brief, req.Known = append(req.Brief, toWire(s.Record.Name)), append(req.Known, s.Record.Digest[:])
	}
	if err := l.send(&req, maxRequest); err != nil {
		return nil, err
	}
	if err := l.flush(); err != nil {
		return nil, err
	}
	same = make([]bool, len(offered))
	for range len(offered) + 1 {
		var e recordsEntry
		if err := l.recv(&e, maxEntry); err != nil {
			return nil, noEOF(err)
		}
		if e.End {
			for i := range same {
				same[i] = same[i] || i/8 < len(e.Same) && e.Same[i/8]&(1<<(i%8)) != 0
			}
			return same, nil
		}
		// One that does not know of digests in a request answers as to any question.
		if d, err := digestOf(e.Digest); err == nil && int64(e.Index) < int64(len(offered)) && d == offered[e.Index].Record.Digest {
			same[e.Index] = true
		}
	}
	return nil, io.ErrUnexpectedEOF
}

// offered says which of the records that a peer has, too, are the same here.
func (x *Exchange) offered(from peer.ID, req *recordsRequest) (same []byte, err error) {
	if len(req.Known) != len(req.Brief) {
		return nil, fmt.Errorf("%d digests of %d names", len(req.Known), len(req.Brief))
	}
	same = make([]byte, (len(req.Brief)+7)/8)
	for i, w := range req.Brief {
		n, err := w.name()
		if err != nil {
			return nil, err
		}
		if !x.shares(from, n.Module.Path) {
			continue
		}
		s, err := x.cfg.Backend.Record(n)
		if err != nil || string(req.Known[i]) != string(s.Record.Digest[:]) {
			continue
		}
		same[i/8] |= 1 << (i % 8)
		x.pushed(pushReply{Status: PushKnown})
		if req.Holding && n.Kind == verify.Zip {
			// It is time to look at it as when the record is handed over, also for a home
			// peer that heard in the claim who holds it: it has not looked since.
			x.holders.add(s.Record.Digest, from)
			x.repair.arrived(n)
		}
	}
	return same, nil
}
