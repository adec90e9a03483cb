package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// Limits of the search for a home peer that answers: members nearer to the name
// that cannot be reached cost at most this much time together.
const (
	maxDeadHomes = 4
	homeBudget   = 2 * time.Second
)

// What the log says when a home peer is given up.
const (
	movedLog = "claim moves to the next home peer"
	lostLog  = "lease lost its home peer"
)

// Outcome says what a claim was told.
type Outcome uint8

// Outcomes of a claim.
const (
	Fetch    Outcome = iota + 1 // this node fetches: Claim.Lease is open
	Held                        // Claim.Record is known, and Claim.Holders have the bytes
	Answered                    // Claim.Value is the answer, made at Claim.At
	Refused                     // the fetcher was told that there is none: Claim.Code, Claim.Text
	Failed                      // fetchers tried and could not: Claim.Text
)

func (o Outcome) String() string {
	return [...]string{"none", "fetch", "held", "answered", "refused", "failed"}[o]
}

// Claim is how a claim came out.
type Claim struct {
	Outcome Outcome
	Home    peer.ID // who said so, a home peer or the fetcher that it named; this node's own ID if no nearer member was reached
	Lease   *Lease
	Record  *verify.Signed // signature checked; whether it is true is not
	Holders []peer.ID      // best first
	Value   []byte
	At      time.Time
	Code    int // HTTP status, 400 to 499
	Text    string
	Waited  time.Duration
}

// Claim asks who shall fetch a file, at the home peer of its release, and waits
// until that is settled: until somebody has it, or this node is to fetch. While
// home peers fail it goes to the next, in the end to its own desk, so that it
// always comes out; errors are those of ctx, and ErrClosed. tried names holders
// that this node could not get the file from: to be told of them again is no use.
func (x *Exchange) Claim(ctx context.Context, n verify.Name, tried ...peer.ID) (*Claim, error) {
	if err := n.Check(); err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	w := toWire(n)
	return x.claim(ctx, &claimRequest{Name: &w, Tried: rawPeers(tried)})
}

// ClaimAnswer is Claim for any other answer, such as a list of versions. An
// answer not older than maxAge will do. Answers with the same text before the
// first space in their keys have the same home peers.
func (x *Exchange) ClaimAnswer(ctx context.Context, key string, maxAge time.Duration) (*Claim, error) {
	return x.claim(ctx, &claimRequest{Key: key, MaxAge: uint64(max(maxAge, 0) / time.Second)})
}

func (x *Exchange) claim(ctx context.Context, req *claimRequest) (*Claim, error) {
	c, err := req.check()
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	start := time.Now()
	ctx, cancel := x.within(ctx)
	defer cancel()
	search := x.homesFor(c)
	for {
		home, err := search.next(ctx)
		if err != nil {
			return nil, x.claimError(c, err)
		}
		var out *Claim
		if home == x.self {
			out, err = x.claimHere(ctx, c)
		} else {
			req.Unreached = rawPeers(slices.Collect(maps.Keys(search.tried)))
			out, err = x.claimAt(ctx, home, c, req)
		}
		var nearer *nearerError
		if errors.As(err, &nearer) && search.follow(nearer.peer) {
			continue
		}
		if ctx.Err() != nil {
			if out != nil && out.Lease != nil {
				out.Lease.Close()
			}
			return nil, x.claimError(c, ctx.Err())
		}
		if err != nil {
			search.failed(home)
			x.log.Debug(movedLog, "key", c.key, "peer", home, "err", err)
			continue
		}
		out.Home, out.Waited = cmp.Or(out.Home, home), time.Since(start)
		out.Holders = x.health.rank(slices.DeleteFunc(out.Holders, func(p peer.ID) bool { return p == x.self }))
		x.metrics.claims.WithLabelValues(out.Outcome.String()).Inc()
		return out, nil
	}
}

func (x *Exchange) claimError(c claimed, err error) error {
	if x.ctx.Err() != nil {
		err = ErrClosed
	}
	return fmt.Errorf("claim %s: %w", c.key, err)
}

// homeSearch walks the members in the order of their distance to a text, this
// node among them. All nodes walk in the same order, so that they meet.
type homeSearch struct {
	x     *Exchange
	order []peer.ID
	tried map[peer.ID]bool
	dead  int
	until time.Time // until when members without a connection are tried

	named   peer.ID // by a home peer, as one that is nearer
	follows int
}

// maxFollowed bounds how often a search goes where a home peer points to.
const maxFollowed = 3

// nearerError is a home peer's word that another member, which it is connected
// to, is nearer.
type nearerError struct{ peer peer.ID }

func (e *nearerError) Error() string { return fmt.Sprintf("%v is nearer", e.peer) }

// errDeclined is a home peer's word that it does not speak of this module with
// this node.
var errDeclined = errors.New("the home peer does not speak of it")

// follow makes p the next to be tried, if it was not tried before.
func (h *homeSearch) follow(p peer.ID) bool {
	if h.tried[p] || h.follows == maxFollowed || p == h.x.self || !slices.Contains(h.order, p) {
		return false
	}
	h.named = p
	h.follows++
	return true
}

func (x *Exchange) homesFor(c claimed) *homeSearch {
	all := x.sharing(union([]peer.ID{x.self}, x.cfg.Members.Members()), c.path())
	return &homeSearch{
		x: x, order: newRing(all).nearest(c.home, len(all)),
		tried: map[peer.ID]bool{}, until: time.Now().Add(homeBudget),
	}
}

// next returns the nearest member that was not tried yet and may be alive. This
// node is always alive, so there is always one, but for the end of ctx.
func (h *homeSearch) next(ctx context.Context) (peer.ID, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if p := h.named; p != "" && !h.tried[p] {
		return p, nil
	}
	for _, p := range h.order {
		if p == h.x.self {
			break
		}
		if h.tried[p] || !h.x.cfg.Members.IsMember(p) {
			continue
		}
		// All have to meet at the same peer, so one mishap does not rule out a peer
		// that is connected.
		if h.x.cfg.Host.Network().Connectedness(p) == network.Connected {
			if h.x.health.hopeful(p) {
				return p, nil
			}
		} else if h.x.health.usable(p) && h.dead < maxDeadHomes && time.Now().Before(h.until) {
			return p, nil
		}
	}
	return h.x.self, nil
}

func (h *homeSearch) failed(p peer.ID) {
	h.tried[p] = true
	h.dead++
}

// claimHere claims at this node's own desk.
func (x *Exchange) claimHere(ctx context.Context, c claimed) (*Claim, error) {
	who, r := x.enter(x.self, c)
	if who == nil {
		return r.claim(c)
	}
	for r.State == claimWait {
		select {
		case r = <-who.told:
		case <-ctx.Done():
			x.desk.leave(who)
			return nil, ctx.Err()
		}
	}
	if r.State != claimFetch {
		return r.claim(c)
	}
	return x.lease(&localTurn{x: x, c: c, who: who})
}

// claimAt claims at another member. An error means that it is of no use as a
// home peer now.
func (x *Exchange) claimAt(ctx context.Context, home peer.ID, c claimed, req *claimRequest) (*Claim, error) {
	// The stream outlives this call if it becomes a lease.
	sctx, cancel := context.WithCancel(inTrace(x.ctx, ctx))
	unhook := context.AfterFunc(ctx, cancel)
	t := &remoteTurn{x: x, c: c, at: home, cancel: cancel}
	r, err := t.open(sctx, req)
	doubt := x.doubt(home, c)
	for err == nil && r.State == claimWait {
		var out *Claim
		if out, err = doubt.waits(sctx, r); out != nil {
			unhook()
			t.close(nil)
			return out, nil
		}
		if err == nil {
			r = claimReply{}
			err = t.l.recv(&r, maxClaim)
		}
	}
	if err == nil && r.State == claimFetch {
		if !unhook() {
			err = ctx.Err()
		} else if err = t.listen(sctx); err == nil {
			return x.lease(t)
		}
	}
	unhook()
	defer t.close(err)
	if err != nil {
		if ctx.Err() == nil {
			x.health.failed(home)
		}
		return nil, err
	}
	out, err := r.claim(c)
	if errors.Is(err, verify.ErrRecord) {
		x.liar(home, err)
	}
	return out, err
}

// claim turns a final reply into its outcome. Records are opened here, so a
// reply that came over the wire is checked.
func (r *claimReply) claim(c claimed) (*Claim, error) {
	switch r.State {
	case claimDeclined:
		return nil, errDeclined
	case claimNearer:
		if ids := peersOf(r.Holders); len(ids) == 1 {
			return nil, &nearerError{ids[0]}
		}
	case claimHolders:
		s, err := verify.OpenSigned(r.Envelope)
		if err != nil {
			return nil, err
		}
		if s.Record.Name != c.name {
			return nil, fmt.Errorf("claim of %v answered with a record of %v: %w", c.name, s.Record.Name, verify.ErrRecord)
		}
		return &Claim{Outcome: Held, Record: s, Holders: peersOf(r.Holders)}, nil
	case claimAnswer:
		if len(r.Value) > maxAnswer {
			return nil, fmt.Errorf("answer of %d bytes for %s: at most %d allowed", len(r.Value), c.key, maxAnswer)
		}
		return &Claim{Outcome: Answered, Value: r.Value, At: madeAt(r.At)}, nil
	case claimRefused:
		if r.Code < 400 || r.Code > 499 {
			return nil, fmt.Errorf("refusal with code %d: want 400 to 499", r.Code)
		}
		return &Claim{Outcome: Refused, Code: int(r.Code), Text: r.Text[:min(len(r.Text), maxText)]}, nil
	case claimFailed:
		return &Claim{Outcome: Failed, Text: r.Text[:min(len(r.Text), maxText)]}, nil
	}
	return nil, fmt.Errorf("claim of %s answered with state %d", c.key, r.State)
}
