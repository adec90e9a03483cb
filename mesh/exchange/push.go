package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// pushTimeout bounds a push to one peer as a whole.
const pushTimeout = 30 * time.Second

// PushResult is what one home peer did with one record.
type PushResult struct {
	Peer   peer.ID
	Name   verify.Name
	Status PushStatus
	Have   *verify.Signed // PushConflict: the record that was there first
}

// Push hands records that this node made or holds to the home peers of their
// names, as far as they may learn of them. held says which of them this node holds the bytes of. Results come for
// the peers that answered; the error joins those of the others and is nil if
// every home peer answered.
func (x *Exchange) Push(ctx context.Context, records []*verify.Signed, held func(*verify.Signed) bool) ([]PushResult, error) {
	ctx, cancel := x.within(ctx)
	defer cancel()
	live, _ := x.candidates()
	ring := newRing(live)
	plan := map[peer.ID][]*verify.Signed{}
	for _, s := range records {
		for _, p := range x.homes(ring, homeKey(s.Record.Name), s.Record.Name.Module.Path, x.cfg.Homes) {
			plan[p] = append(plan[p], s)
		}
	}
	type outcome struct {
		results []PushResult
		err     error
	}
	out := make(chan outcome, len(plan))
	open := 0
	for p, list := range plan {
		if x.start(func() {
			results, err := x.PushTo(ctx, p, list, held)
			out <- outcome{results, err}
		}) {
			open++
		}
	}
	var all []PushResult
	var errs []error
	for range open {
		o := <-out
		all = append(all, o.results...)
		errs = append(errs, o.err)
	}
	return all, errors.Join(errs...)
}

// PushTo hands records to one peer, in batches of maxPush, but for those of modules
// that it may not learn of. What it knows already it is told in brief.
func (x *Exchange) PushTo(ctx context.Context, p peer.ID, records []*verify.Signed, held func(*verify.Signed) bool) ([]PushResult, error) {
	if x.cfg.Share != nil {
		records = slices.DeleteFunc(slices.Clone(records), func(s *verify.Signed) bool { return !x.shares(p, s.Record.Name.Module.Path) })
	}
	var all []PushResult
	for len(records) > 0 {
		batch := records[:min(len(records), maxPush)]
		records = records[len(batch):]
		batch, known := x.offer(ctx, p, batch, held)
		all = append(all, known...)
		if len(batch) == 0 {
			continue
		}
		results, err := x.pushBatch(ctx, p, batch, held)
		all = append(all, results...)
		if err != nil {
			return all, fmt.Errorf("push %d records to %v: %w", len(batch), p, err)
		}
	}
	return all, nil
}

func (x *Exchange) pushBatch(ctx context.Context, p peer.ID, batch []*verify.Signed, held func(*verify.Signed) bool) (results []PushResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	l, stop, err := x.ask(ctx, p, PushID, Background)
	if err != nil {
		return nil, err
	}
	defer func() { stop(err) }()
	sent := make(chan error, 1)
	if !x.start(func() { sent <- sendRecords(l, batch, held) }) {
		return nil, ErrClosed
	}
	// Replies are read while records are still being sent, or both sides could
	// wait for the other to read.
	results, err = recvReplies(l, p, batch)
	if err != nil {
		l.s.Reset()
	}
	return results, errors.Join(err, <-sent)
}

func sendRecords(l *link, batch []*verify.Signed, held func(*verify.Signed) bool) error {
	for _, s := range batch {
		m := pushRecord{Envelope: s.Envelope, Held: held != nil && held(s)}
		if err := l.send(&m, maxEntry); err != nil {
			return err
		}
	}
	if err := l.flush(); err != nil {
		return err
	}
	return l.s.CloseWrite()
}

func recvReplies(l *link, p peer.ID, batch []*verify.Signed) ([]PushResult, error) {
	var results []PushResult
	for _, s := range batch {
		var m pushReply
		if err := l.recv(&m, maxEntry); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return results, err
		}
		r := PushResult{Peer: p, Name: s.Record.Name, Status: m.Status}
		if m.Status == PushConflict {
			have, err := verify.OpenSigned(m.Envelope)
			if err != nil {
				return results, err
			}
			if have.Record.Name == r.Name {
				r.Have = have
			}
		}
		results = append(results, r)
	}
	return results, nil
}

// answerPush is the answerer's side of PushID.
func (x *Exchange) answerPush(ctx context.Context, from peer.ID, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.s.Reset() })()
	for range maxPush {
		var m pushRecord
		if err := l.recv(&m, maxEntry); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		reply := x.takeRecord(ctx, from, m.Envelope, m.Held)
		if err := l.send(&reply, maxEntry); err != nil {
			return err
		}
		if l.r.Buffered() == 0 { // the asker may be waiting for what it said so far
			if err := l.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeRecord lets a record that a peer sent through the backend's door.
func (x *Exchange) takeRecord(ctx context.Context, from peer.ID, envelope []byte, held bool) pushReply {
	s, err := verify.OpenSigned(envelope)
	if err != nil {
		x.liar(from, err)
		return x.pushed(pushReply{Status: PushRefused})
	}
	if !x.shares(from, s.Record.Name.Module.Path) {
		return x.pushed(pushReply{Status: PushRefused})
	}
	status := PushAccepted
	if have, err := x.cfg.Backend.Record(s.Record.Name); err == nil && have.Record.Digest == s.Record.Digest {
		status = PushKnown
	} else if err := x.cfg.Backend.Accept(ctx, from, s); err != nil {
		var conflict *store.ConflictError
		if errors.As(err, &conflict) {
			return x.pushed(pushReply{Status: PushConflict, Envelope: conflict.Have.Envelope})
		}
		x.log.Info("record from a peer refused", "peer", from, "name", s.Record.Name, "err", err)
		return x.pushed(pushReply{Status: PushRefused})
	}
	if s.Record.Name.Kind == verify.Zip {
		if held {
			x.holders.add(s.Record.Digest, from)
		}
		// Who is told of a zip by one that does not hold it has come to be near it, and
		// others may have gone.
		if held || status == PushAccepted {
			x.repair.arrived(s.Record.Name)
		}
	}
	return x.pushed(pushReply{Status: status})
}

func (x *Exchange) pushed(r pushReply) pushReply {
	label := map[PushStatus]string{PushAccepted: "accepted", PushKnown: "known", PushRefused: "refused", PushConflict: "conflict"}
	x.metrics.pushes.WithLabelValues(label[r.Status]).Inc()
	return r
}
