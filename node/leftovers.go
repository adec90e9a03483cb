package node

import (
	"context"
	"errors"
	"maps"
	"slices"
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

// keep takes over staged, in place of what is kept of the same zip: a client and the
// care for copies may both have tried. The oldest one goes when there are too many.
func (l *leftovers) keep(staged *store.Staged) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		staged.Close()
		return
	}
	gone := l.take(staged.Root)
	if len(l.held) >= maxLeftovers {
		gone = append(gone, l.take(l.oldest())...)
	}
	end := time.AfterFunc(leftoverFor, func() { l.drop(staged.Root) })
	l.held[staged.Root] = leftover{staged, time.Now(), end}
	l.mu.Unlock()
	giveUp(gone)
}

// take takes out what is kept of a zip, for giveUp once mu is not held any more. It is
// for a caller that holds mu.
func (l *leftovers) take(root verify.Digest) []leftover {
	o, ok := l.held[root]
	if !ok {
		return nil
	}
	delete(l.held, root)
	return []leftover{o}
}

func giveUp(gone []leftover) {
	for _, o := range gone {
		o.end.Stop()
		o.staged.Close()
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
	gone := l.take(root)
	l.mu.Unlock()
	giveUp(gone)
}

// close gives up all, and keeps nothing from then on.
func (l *leftovers) close() {
	l.mu.Lock()
	gone := slices.Collect(maps.Values(l.held))
	l.held, l.closed = nil, true
	l.mu.Unlock()
	giveUp(gone)
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
