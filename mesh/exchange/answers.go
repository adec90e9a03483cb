package exchange

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Answer is what a member knows about a key.
type Answer struct {
	Key   string
	Value []byte
	At    time.Time
	From  peer.ID
}

// madeAt is when a peer says that its answer was made. Clocks differ, and an answer from
// the future would be the newest, and fresh, until then.
func madeAt(sec int64) time.Time {
	at, now := timeOf(sec), time.Now().UTC()
	if at.After(now) {
		return now
	}
	return at
}

// maxAnswersAsked bounds the members besides home peers that are asked.
const maxAnswersAsked = 8

// Answers asks the home peers of key and some connected members what they know,
// without anybody fetching anything: for an outage, or for what never changes.
// It waits as Records does; patient says that nobody else can be asked. The newest
// answer comes first. Whether an answer is true is the caller's to
// judge. Errors: ErrUnreached, ErrUnknown.
func (x *Exchange) Answers(ctx context.Context, key string, patient bool) ([]Answer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	outer := ctx
	ctx, undo := x.within(ctx)
	defer undo()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errLate)
	live, connected := x.others(patient)
	connected = x.sharing(x.health.rank(connected), keyPath(key))
	peers := union(x.homes(newRing(live), keyHome(key), keyPath(key), x.cfg.Homes), connected[:min(len(connected), maxAnswersAsked)])
	type reply struct {
		a   *Answer
		err error
	}
	in := make(chan reply, len(peers))
	open, resort := 0, (&RecordsOptions{Patient: patient}).resort()
	budget := time.Duration(0)
	for _, p := range peers {
		budget = max(budget, x.patience(p, 0))
		if x.start(func() {
			a, err := x.askAnswer(ctx, p, key, resort)
			in <- reply{a, err}
		}) {
			open++
		}
	}
	spent := time.NewTimer(budget)
	defer spent.Stop()
	reached, late := false, false
	var found []Answer
	for open > 0 && !(late && reached && (len(found) > 0 || !patient)) {
		select {
		case r := <-in:
			open--
			reached = reached || r.err == nil
			if r.a != nil {
				found = append(found, *r.a)
			}
		case <-spent.C:
			late = true
		}
	}
	switch {
	case outer.Err() != nil:
		return nil, outer.Err()
	case x.ctx.Err() != nil:
		return nil, ErrClosed
	case !reached:
		return nil, fmt.Errorf("answers for %s: %d members asked: %w", key, len(peers), ErrUnreached)
	case len(found) == 0:
		return nil, fmt.Errorf("answers for %s: %d members asked: %w", key, len(peers), ErrUnknown)
	}
	slices.SortStableFunc(found, func(a, b Answer) int { return b.At.Compare(a.At) })
	return found, nil
}

func (x *Exchange) askAnswer(ctx context.Context, p peer.ID, key string, resort time.Duration) (a *Answer, err error) {
	leave, err := x.answers.take(ctx, p)
	if err != nil {
		return nil, err
	}
	defer leave()
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, x.resort(p, 0, resort))
	defer cancel()
	defer func() {
		if err != nil && isLate(ctx) {
			x.health.late(p)
		}
	}()
	l, stop, err := x.ask(ctx, p, AnswersID, Client)
	if err != nil {
		return nil, err
	}
	defer func() { stop(err) }()
	if err := l.send(&answersRequest{Keys: []string{key}, Trace: l.traceparent()}, maxRequest); err != nil {
		return nil, err
	}
	if err := l.flush(); err != nil {
		return nil, err
	}
	for range 2 {
		var e answersEntry
		if err := l.recv(&e, maxAnswer+maxKey); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if e.End {
			x.health.answered(p, time.Since(start))
			return a, nil
		}
		a = &Answer{Key: key, Value: e.Value, At: madeAt(e.At), From: p}
	}
	return nil, fmt.Errorf("%v answered more than it was asked", p)
}

// answerAnswers is the answerer's side of AnswersID.
func (x *Exchange) answerAnswers(ctx context.Context, from peer.ID, l *link) error {
	var req answersRequest
	if err := l.recv(&req, maxRequest); err != nil {
		return err
	}
	x.joinTrace(ctx, from, l, req.Trace)
	if len(req.Keys) > maxNames {
		return fmt.Errorf("%d keys in a request: at most %d allowed", len(req.Keys), maxNames)
	}
	for i, key := range req.Keys {
		if err := checkKey(key); err != nil {
			return err
		}
		if !x.shares(from, keyPath(key)) {
			continue
		}
		value, at, err := x.cfg.Backend.Answer(key)
		if err != nil || len(value) > maxAnswer {
			continue
		}
		if err := l.send(&answersEntry{Index: uint32(i), Value: value, At: at.Unix()}, maxAnswer+maxKey); err != nil {
			return err
		}
	}
	return l.send(&answersEntry{End: true}, maxRequest)
}
