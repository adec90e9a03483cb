package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// Limits of what is kept of zips whose pull failed.
const (
	leftoverFor  = 10 * time.Minute
	maxLeftovers = 16
)

// leftovers are handles to zips whose pull failed. While one is open the store
// keeps the files that have arrived, each of them verified, so that the next try
// needs only the rest, whoever it comes from.
type leftovers struct {
	mu     sync.Mutex // guards what follows
	held   map[verify.Digest]leftover
	closed bool
}

type leftover struct {
	staged *store.Staged
	since  time.Time
	end    *time.Timer
}

func newLeftovers() *leftovers { return &leftovers{held: map[verify.Digest]leftover{}} }

// keep takes over staged. The oldest one goes when there are too many.
func (l *leftovers) keep(staged *store.Staged) {
	root := staged.Root
	l.drop(root)
	var oldest verify.Digest
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		staged.Close()
		return
	}
	l.held[root] = leftover{staged, time.Now(), time.AfterFunc(leftoverFor, func() { l.drop(root) })}
	crowded := len(l.held) > maxLeftovers
	if crowded {
		oldest = l.oldest()
	}
	l.mu.Unlock()
	if crowded {
		l.drop(oldest)
	}
}

// oldest is for a caller that holds mu.
func (l *leftovers) oldest() (root verify.Digest) {
	var since time.Time
	for r, o := range l.held {
		if since.IsZero() || o.since.Before(since) {
			root, since = r, o.since
		}
	}
	return root
}

// drop gives up what is kept of a zip: it is here, or nobody came back for it.
func (l *leftovers) drop(root verify.Digest) {
	l.mu.Lock()
	o, ok := l.held[root]
	delete(l.held, root)
	l.mu.Unlock()
	if ok {
		o.end.Stop()
		o.staged.Close()
	}
}

// close gives up all, and keeps nothing from then on.
func (l *leftovers) close() {
	l.mu.Lock()
	held := l.held
	l.held, l.closed = nil, true
	l.mu.Unlock()
	for _, o := range held {
		o.end.Stop()
		o.staged.Close()
	}
}

// spare keeps what has arrived of a zip whose pull failed with err, unless the disk
// has no room for it.
func (n *Node) spare(ctx context.Context, staged *store.Staged, err error) {
	if errors.Is(err, store.ErrFull) {
		return
	}
	again, err := n.store.StageListing(context.WithoutCancel(ctx), staged.Module, staged.Root, staged.Listing.Encode())
	if err != nil {
		n.log.Debug("what has arrived of a zip is not kept", "module", staged.Module.String(), "err", err)
		return
	}
	n.leftovers.keep(again)
}
