package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

const (
	// headsPeriod is how often offices compare the tree heads that they were shown.
	// A database that shows one office another history than the rest is found out
	// within this time.
	headsPeriod = 5 * time.Minute
	// headsDelay is how long a connection may take to be let in before its office is
	// asked; many that come at once are asked together.
	headsDelay = time.Second
	headsLimit = 30 * time.Second
	// headsPause is how long a node rests after it has compared tree heads because it
	// met somebody: where members come one after the other, each of the others would
	// ask ten about every one of them.
	headsPause = time.Minute
)

// meetings does what is due when another office connects, and from time to time,
// until ctx ends: compare tree heads, and tell what came while it was away.
func (n *Node) meetings(ctx context.Context) error {
	met := make(chan struct{}, 1)
	away := &absences{since: make(map[peer.ID]time.Time)}
	for _, p := range n.mesh.Members() {
		away.since[p] = n.aliveAt()
	}
	defer n.alive()
	meet := func(p peer.ID) {
		away.back(p)
		select {
		case met <- struct{}{}:
		default:
		}
	}
	notify := &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) { meet(c.RemotePeer()) },
		DisconnectedF: func(w network.Network, c network.Conn) {
			if w.Connectedness(c.RemotePeer()) != network.Connected && n.mesh.IsMember(c.RemotePeer()) {
				away.left(c.RemotePeer())
			}
		},
	}
	n.mesh.Host().Network().Notify(notify)
	defer n.mesh.Host().Network().StopNotify(notify)
	for _, p := range n.mesh.Connected() { // too early to be notified of
		meet(p)
	}
	due := time.NewTimer(headsPeriod) // to compare
	defer due.Stop()
	var compared time.Time
	for {
		select {
		case <-met:
			select {
			case <-time.After(headsDelay):
			case <-ctx.Done():
				return nil
			}
			if since := away.ended(); !since.IsZero() {
				n.retell(since)
			}
			if rest := headsPause - time.Since(compared); rest > 0 {
				due.Reset(min(rest, headsPeriod))
				continue
			}
		case <-due.C:
		case <-ctx.Done():
			return nil
		}
		if n.compareHeads(ctx) {
			compared = time.Now()
		}
		due.Reset(headsPeriod)
	}
}

// compareHeads compares the tree heads of all databases, and reports whether anybody
// was there to compare them with.
func (n *Node) compareHeads(ctx context.Context) (done bool) {
	for _, db := range n.databases {
		done = n.compareHead(ctx, db) || done
	}
	n.alive()
	return done
}

// aliveKey is where a node keeps when it last ran.
const aliveKey = "node/alive"

// alive notes that the node runs now.
func (n *Node) alive() {
	if err := n.store.SetMeta(aliveKey, []byte(time.Now().UTC().Format(time.RFC3339))); err != nil {
		n.log.Warn("cannot note that this node runs", "err", err)
	}
}

// aliveAt is when the node last ran, as far as is known: for whom it has not met
// since, everything is news that came later.
func (n *Node) aliveAt() time.Time {
	text, err := n.store.Meta(aliveKey)
	if err != nil {
		return n.started
	}
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return n.started
	}
	return t
}

// absences says since when members were away that are back now.
type absences struct {
	mu    sync.Mutex
	since map[peer.ID]time.Time // guarded by mu; of those that are away
	first time.Time             // guarded by mu; the longest absence that has ended
}

func (a *absences) left(p peer.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.since[p] = time.Now()
}

func (a *absences) back(p peer.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.since[p]
	delete(a.since, p)
	if ok && (a.first.IsZero() || t.Before(a.first)) {
		a.first = t
	}
}

// ended is the beginning of the longest absence that has ended since the last call,
// zero if there was none.
func (a *absences) ended() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.first
	a.first = time.Time{}
	return t
}

// maxRetold bounds the module versions that are told again at once. The mesh finds
// the rest by asking.
const maxRetold = maxNews / 3

// retell tells the mesh again what came here since some time. Offices that were
// apart find out so if they were given different content for one name.
func (n *Node) retell(since time.Time) {
	arrivals, err := n.store.Index(since, maxRetold)
	if err != nil {
		n.log.Error("cannot list what came lately", "since", since, "err", err)
		return
	}
	for _, a := range arrivals {
		for _, k := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
			name := verify.Name{Module: a.Module, Kind: k}
			if s, err := (peerSide{n}).Record(name); err == nil && n.has(name) {
				n.tell(s)
			}
		}
	}
}

// compareHead compares the tree heads of one database, and reports whether any member
// answered.
func (n *Node) compareHead(ctx context.Context, db *verify.Database) bool {
	ctx, cancel := context.WithTimeout(ctx, headsLimit)
	defer cancel()
	answers, err := n.exchange().Answers(ctx, db.Name()+sumdbInfix+"latest", false)
	if err != nil {
		return errors.Is(err, exchange.ErrUnknown) // else nobody is there
	}
	for _, a := range answers {
		err := db.Observe(ctx, a.Value)
		switch {
		case errors.Is(err, verify.ErrProof):
			n.exchange().Blame(a.From, err)
		case errors.Is(err, verify.ErrSecurity):
			n.log.Error("another office was shown another history of a checksum database", "database", db.Name(),
				"office", n.officeOf(a.From), "err", err)
		case err != nil && ctx.Err() == nil:
			n.log.Info("cannot compare tree heads", "database", db.Name(), "office", n.officeOf(a.From), "err", err)
		}
	}
	return true
}
