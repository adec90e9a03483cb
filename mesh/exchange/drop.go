package exchange

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// dropTime is how long a node that was told that it may drop a zip says that it
// does not hold it. Within that time it must have dropped it.
const dropTime = time.Minute

// drops is what this node is about to drop.
type drops struct {
	mu    sync.Mutex // guards until
	until map[verify.Digest]time.Time
}

func (d *drops) add(root verify.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for r, until := range d.until {
		if now.After(until) {
			delete(d.until, r)
		}
	}
	d.until[root] = now.Add(dropTime)
}

func (d *drops) remove(root verify.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.until, root)
}

func (d *drops) has(root verify.Digest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.until[root])
}

// holds reports whether other members may count on this node's copy of a zip.
func (x *Exchange) holds(root verify.Digest) bool {
	return x.cfg.Backend.HasZip(root) && !x.drops.has(root)
}

// Copies returns, for each zip named, the members besides this one that say now
// that they hold all of it. Errors are those of Records.
func (x *Exchange) Copies(ctx context.Context, names []verify.Name) ([][]peer.ID, error) {
	reply, err := x.Records(ctx, names, RecordsOptions{Brief: true, All: true})
	if err != nil {
		return nil, err
	}
	copies := make([][]peer.ID, len(names))
	for i, f := range reply.Found {
		copies[i] = f.Own
	}
	return copies, nil
}

// MayDrop reports whether this node may drop its copy of a zip, because so many
// other offices say that they hold it; less than one is taken for one. Before it
// asks, it says itself to hold the zip no more, so that of two nodes that ask
// about the last copies none hears yes because of the other. After a yes the zip
// is to be dropped within dropTime.
func (x *Exchange) MayDrop(ctx context.Context, n verify.Name, root verify.Digest, offices int) (bool, error) {
	x.drops.add(root)
	copies, err := x.Copies(ctx, []verify.Name{n})
	if err != nil {
		x.drops.remove(root)
		return false, fmt.Errorf("may %v be dropped: %w", n, err)
	}
	in := map[string]bool{}
	for _, p := range copies[0] {
		in[x.cfg.Members.Office(p)] = true
	}
	delete(in, x.cfg.Members.Office(x.self))
	if len(in) < max(offices, 1) {
		x.drops.remove(root)
		return false, nil
	}
	return true, nil
}
