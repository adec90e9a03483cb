package node

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/meshproxy/meshproxy/protocol"
)

// errClosed ends work that was asked of a node on its way down.
var errClosed = errors.New("this node is shutting down")

// maxRemembered bounds the failures that flights remember; past it the expired
// ones are swept, and if that frees none, a failure is simply not remembered.
const maxRemembered = 4096

// flights lets identical requests share one piece of work. The work belongs to
// the node, not to the client that happened to start it: it goes on when that
// client hangs up, has its own time limit, and ends when the node does. What
// failed is remembered for a moment, so that a storm of retries is not a storm
// upstream.
type flights[T any] struct {
	remember func(error) time.Duration // how long to answer with this failure; may be nil

	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool                  // guarded by mu
	flying  map[string]*flight[T] // guarded by mu; work under way
	failed  map[string]failure    // guarded by mu
	life    context.Context
	end     context.CancelFunc
}

type flight[T any] struct {
	of    trace.SpanContext // of the request that started the work, or of the work itself
	early chan any          // holds what the work published before its end, if it did
	done  chan struct{}     // closed when value and err are set
	value T
	err   error
}

type failure struct {
	err   error
	until time.Time
}

func newFlights[T any](remember func(error) time.Duration) *flights[T] {
	life, end := context.WithCancel(context.Background())
	return &flights[T]{
		remember: remember, life: life, end: end,
		flying: make(map[string]*flight[T]), failed: make(map[string]failure),
	}
}

// do returns what work returns, running it at most once at a time for a key and
// for no longer than limit. When ctx ends first, do returns its error and the
// work goes on.
func (f *flights[T]) do(ctx context.Context, key string, limit time.Duration, work func(context.Context) (T, error)) (T, error) {
	_, value, err := f.first(ctx, key, limit, func(ctx context.Context, _ func(any)) (T, error) { return work(ctx) })
	return value, err
}

// first is do for work that has something to show before it ends: it returns
// when the work has published that, or has ended. early is nil in the latter case.
func (f *flights[T]) first(ctx context.Context, key string, limit time.Duration, work work[T]) (early any, value T, err error) {
	// What goes along of the request that starts the work: what its upstream must
	// be told, its name for the log, and its trace.
	hops, id, of := protocol.Hops(ctx), protocol.RequestID(ctx), trace.SpanContextFromContext(ctx)
	fl, err := f.join(key, limit, of, func(ctx context.Context, publish func(any)) (T, error) {
		return work(inTrace(protocol.WithRequestID(protocol.WithHops(ctx, hops), id), of), publish)
	})
	if err != nil {
		return nil, value, err
	}
	linked(ctx, fl.of)
	select {
	case <-fl.done:
		return nil, fl.value, fl.err
	default:
	}
	select {
	case <-fl.done:
		return nil, fl.value, fl.err
	case early = <-fl.early:
		select {
		case fl.early <- early: // for whoever comes next
		default: // something newer was published meanwhile
		}
		return early, value, nil
	case <-ctx.Done():
		return nil, value, fmt.Errorf("waiting for %s: %w", key, ctx.Err())
	}
}

// work does something once for all who ask. It may publish values early; who asks
// gets one of them.
type work[T any] func(ctx context.Context, publish func(early any)) (T, error)

// join returns the flight for key, starting one if none is under way.
func (f *flights[T]) join(key string, limit time.Duration, of trace.SpanContext, work work[T]) (*flight[T], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errClosed
	}
	if fl, ok := f.flying[key]; ok {
		return fl, nil
	}
	if past, ok := f.failed[key]; ok {
		if time.Now().Before(past.until) {
			return nil, past.err
		}
		delete(f.failed, key)
	}
	fl := &flight[T]{of: of, done: make(chan struct{}), early: make(chan any, 1)}
	f.flying[key] = fl
	f.running.Go(func() { f.fly(key, fl, limit, work) })
	return fl, nil
}

// begin starts work for a key that nobody waits for yet. It reports whether it did:
// not while there is such work already, or a failure is remembered. of is called if
// it does, for the trace that requests are linked to which come to wait.
func (f *flights[T]) begin(key string, limit time.Duration, of func() trace.SpanContext, work work[T]) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	past, failed := f.failed[key]
	if f.closed || f.flying[key] != nil || failed && time.Now().Before(past.until) {
		return false
	}
	fl := &flight[T]{of: of(), done: make(chan struct{}), early: make(chan any, 1)}
	f.flying[key] = fl
	f.running.Go(func() { f.fly(key, fl, limit, work) })
	return true
}

func (f *flights[T]) fly(key string, fl *flight[T], limit time.Duration, work work[T]) {
	ctx, cancel := context.WithTimeout(f.life, limit)
	defer cancel()
	fl.value, fl.err = guarded(ctx, func(ctx context.Context) (T, error) {
		return work(ctx, func(early any) {
			select {
			case fl.early <- early:
			default: // published before
			}
		})
	})
	f.mu.Lock()
	delete(f.flying, key)
	f.note(key, fl.err)
	f.mu.Unlock()
	close(fl.done)
}

// note remembers a failure; f.mu is held.
func (f *flights[T]) note(key string, err error) {
	if err == nil || f.remember == nil || f.closed {
		return
	}
	period := f.remember(err)
	if period <= 0 {
		return
	}
	now := time.Now()
	if len(f.failed) >= maxRemembered {
		for k, past := range f.failed {
			if now.After(past.until) {
				delete(f.failed, k)
			}
		}
	}
	if len(f.failed) < maxRemembered {
		f.failed[key] = failure{err: err, until: now.Add(period)}
	}
}

// forget drops the remembered failure of a key, for when the world has changed.
func (f *flights[T]) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.failed)
}

// close ends all work and waits for it.
func (f *flights[T]) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.end()
	f.running.Wait()
}

// guarded turns a panic of work into an error: one module that trips a bug must
// not take down the office's node.
func guarded[T any](ctx context.Context, work func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bug: %v\n%s", p, debug.Stack())
		}
	}()
	return work(ctx)
}
