package node

import (
	"context"
	"sync"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

const (
	// newsDelay is how long news wait for company: a cold build admits hundreds of
	// files in a few seconds.
	newsDelay = 200 * time.Millisecond
	newsLimit = 30 * time.Second
	// maxNews bounds what waits to be told. The mesh finds the rest by asking.
	maxNews = 1 << 14
)

// news tells the mesh what this office has admitted, in batches.
type news struct {
	push func(context.Context, []*verify.Signed)

	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool             // guarded by mu
	active  bool             // guarded by mu; a batch is being told
	queue   []*verify.Signed // guarded by mu
}

func newNews(push func(context.Context, []*verify.Signed)) *news {
	life, end := context.WithCancel(context.Background())
	return &news{push: push, life: life, end: end}
}

// add has a record told soon.
func (w *news) add(s *verify.Signed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.queue) >= maxNews {
		return
	}
	w.queue = append(w.queue, s)
	if !w.active {
		w.active = true
		w.running.Go(w.work)
	}
}

func (w *news) work() {
	for {
		select {
		case <-time.After(newsDelay):
		case <-w.life.Done():
		}
		w.mu.Lock()
		batch := w.queue
		w.queue = nil
		w.active = len(batch) > 0 && w.life.Err() == nil
		again := w.active
		w.mu.Unlock()
		if !again {
			return
		}
		ctx, cancel := context.WithTimeout(w.life, newsLimit)
		w.push(ctx, batch)
		cancel()
	}
}

// close drops what was not told yet and ends.
func (w *news) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.end()
	w.running.Wait()
}
