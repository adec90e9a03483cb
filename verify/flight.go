package verify

import (
	"context"
	"sync"
)

// flights shares one piece of work among callers that want the same thing at the
// same time. The work goes on until it is done or its last caller has left.
type flights[V any] struct {
	mu sync.Mutex
	m  map[string]*flight[V] // guarded by mu
}

type flight[V any] struct {
	key    string
	users  int // guarded by flights.mu
	cancel context.CancelFunc
	done   chan struct{}
	value  V     // set before done is closed
	err    error // set before done is closed
}

// join takes part in the work under key, and starts it when there is none. Every
// join needs a leave.
func (g *flights[V]) join(ctx context.Context, key string, work func(context.Context) (V, error)) *flight[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.m[key]; f != nil {
		f.users++
		return f
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight[V]{key: key, users: 1, cancel: cancel, done: make(chan struct{})}
	if g.m == nil {
		g.m = make(map[string]*flight[V])
	}
	g.m[key] = f
	go func() {
		defer close(f.done)
		f.value, f.err = work(ctx)
	}()
	return f
}

// leave ends a part in f. With forget, later callers start anew; otherwise they
// still join f as long as somebody is part of it.
func (g *flights[V]) leave(f *flight[V], forget bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.users--
	if f.users == 0 {
		f.cancel()
	}
	if (forget || f.users == 0) && g.m[f.key] == f {
		delete(g.m, f.key)
	}
}

// wait returns the outcome, or ctx's error when that is first.
func (f *flight[V]) wait(ctx context.Context) (V, error) {
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var zero V
		return zero, ctx.Err()
	}
}

// do is join, wait and leave.
func (g *flights[V]) do(ctx context.Context, key string, work func(context.Context) (V, error)) (V, error) {
	f := g.join(ctx, key, work)
	value, err := f.wait(ctx)
	// A caller that merely gave up leaves the work to the others.
	g.leave(f, ctx.Err() == nil)
	return value, err
}
