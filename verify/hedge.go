package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

// errLate marks a source that had not answered when another one had.
var errLate = errors.New("another source was faster, though it was asked later")

// try asks the sources in order until one gives an answer that checks. The next one
// is asked when one has failed, and beside it when it takes its time: a source whose
// packets are swallowed must not cost its timeout. The first answer ends all other
// asking. "Not found" is an answer. The error names what every source said; caches
// that do not have it only if there is nothing else to say.
func try[V any](ctx context.Context, d *Database, ask func(context.Context, *source) (V, error)) (V, error) {
	t := trial[V]{d: d, ask: ask, left: d.order(), running: make(map[int]*source)}
	t.said = make(chan answer[V], len(t.left))
	asking, stop := context.WithCancel(ctx)
	defer t.asked.Wait()
	defer stop()
	return t.run(ctx, asking)
}

// trial is one call of try.
type trial[V any] struct {
	d       *Database
	ask     func(context.Context, *source) (V, error)
	left    []*source       // that were not asked yet
	running map[int]*source // that have not answered yet, by the order of asking
	said    chan answer[V]  // has room for all
	asked   sync.WaitGroup
	failed  failures
	lacking failures // of caches that do not have it
}

type answer[V any] struct {
	turn  int // in the order of asking
	src   *source
	value V
	err   error
}

func (t *trial[V]) run(ctx, asking context.Context) (V, error) {
	var zero V
	patience := time.NewTimer(t.d.hedge)
	defer patience.Stop()
	t.next(asking)
	for len(t.running) > 0 {
		select {
		case a := <-t.said:
			delete(t.running, a.turn)
			if done, err := t.judge(ctx, a); done {
				return a.value, err
			}
		case <-patience.C:
		}
		t.next(asking)
		patience.Reset(t.d.hedge)
	}
	switch {
	case len(t.failed) > 0:
	case len(t.lacking) > 0:
		t.failed = t.lacking[:1]
	case ctx.Err() != nil:
		t.failed = failures{ctx.Err()}
	default:
		return zero, fmt.Errorf("%w: %s: no way to reach it is configured", ErrUnavailable, t.d.name)
	}
	return zero, fmt.Errorf("%w: %s: %w", ErrUnavailable, t.d.name, t.failed)
}

// next asks the next source, if there is one and it is still wanted.
func (t *trial[V]) next(ctx context.Context) {
	if len(t.left) == 0 || ctx.Err() != nil {
		return
	}
	src, turn := t.left[0], -len(t.left)
	t.left, t.running[turn] = t.left[1:], src
	t.asked.Go(func() {
		v, err := t.ask(ctx, src)
		t.said <- answer[V]{turn, src, v, err}
	})
}

// judge reports whether an answer ends the trial, and with which error. Sources that
// were asked before the one that answers, and have not, are asked last for a while.
func (t *trial[V]) judge(ctx context.Context, a answer[V]) (done bool, err error) {
	switch {
	case a.err == nil:
		a.src.coolUntil.Store(0)
		for turn, late := range t.running {
			if turn < a.turn {
				t.d.failed(late, errLate)
			}
		}
		return true, nil
	case ctx.Err() != nil:
		t.failed = append(t.failed, fmt.Errorf("%s: %w", a.src.Name, ctx.Err()))
	case errors.Is(a.err, fs.ErrNotExist):
		return true, fmt.Errorf("checksum database %s: %w", t.d.name, a.err)
	default:
		t.d.failed(a.src, a.err)
		said := &t.failed
		if errors.Is(a.err, ErrNotCached) {
			said = &t.lacking
		}
		*said = append(*said, fmt.Errorf("%s: %w", a.src.Name, a.err))
	}
	return false, nil
}
