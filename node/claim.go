package node

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

const (
	// maxClaims bounds how often a file is claimed again because what another
	// office fetched was not to be had after all.
	maxClaims = 3
	// beat is how often a lease is told that its fetch goes on. Whether the fetch
	// makes progress, the upstreams watch: they know what to expect of each kind.
	beat = 5 * time.Second
)

// firstFetch has a file fetched once in the whole mesh: by this office, or by
// another one that is at it already. meshErr is why no office could give it.
func (n *errand) firstFetch(ctx context.Context, meshErr error) (origin, error) {
	name := n.name
	if n.isOff() {
		return origin{}, n.onlyMesh(name.String(), meshErr)
	}
	x := n.exchange()
	var failed []peer.ID // holders that did not give it
	for range maxClaims {
		claim, err := n.claim(ctx, name.String(), func(ctx context.Context) (*exchange.Claim, error) { return x.Claim(ctx, name, failed...) })
		if err != nil {
			return origin{}, err
		}
		switch claim.Outcome {
		case exchange.Fetch:
			from, err := n.fetchUnder(ctx, claim.Lease)
			return from, n.explained(name.String(), meshErr, err)
		case exchange.Held:
			from, err := n.take(ctx, exchange.Found{
				Name: name, Records: []*verify.Signed{claim.Record}, Senders: []peer.ID{claim.Home}, Holders: claim.Holders, Answered: 1,
			})
			if err == nil {
				return from, err
			}
			meshErr = err
			failed = append(failed, claim.Holders...)
		case exchange.Refused, exchange.Failed:
			// What another office was told need not hold here: only this one may have
			// the credentials. It asks for itself, as the mesh is of no more help.
			from, _, err := n.fetch(ctx)
			return from, n.explained(name.String(), meshErr, err)
		}
	}
	from, _, err := n.fetch(ctx)
	return from, n.explained(name.String(), meshErr, err)
}

// explained is notObtained for an error, and nil for none.
func (n *Node) explained(what string, meshErr, err error) error {
	if err == nil {
		return nil
	}
	return n.notObtained(what, meshErr, err)
}

// fetchUnder fetches the file for the whole mesh and ends the lease with what came
// of it.
func (n *errand) fetchUnder(ctx context.Context, lease *exchange.Lease) (origin, error) {
	name := n.name
	defer lease.Close()
	stop := keepAlive(lease)
	defer stop()
	from, signed, err := n.fetch(ctx)
	stop()
	switch {
	case err == nil:
		n.settled(name.String(), lease.Done(ctx, signed))
	case isAnswer(err):
		n.settled(name.String(), lease.Refuse(ctx, protocol.StatusOf(err), err.Error()))
	default:
		n.settled(name.String(), lease.Fail(ctx, err.Error()))
	}
	return from, err
}

// keepAlive tells the lease that its fetch goes on, until the returned func is
// called.
func keepAlive(lease *exchange.Lease) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				lease.Progress(1)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// settled logs a lease that could not be ended properly: those who wait find
// out after a while by themselves.
func (n *Node) settled(what string, err error) {
	if err != nil {
		n.log.Debug("others could not be told of a fetch", "what", what, "err", err)
	}
}

// shared gets a mutable answer that is asked for once in the whole mesh for each
// time that it goes stale.
func (n *Node) shared(ctx context.Context, key string, refresh func(context.Context) (mutable, error)) (mutable, error) {
	if n.isOff() {
		return n.sharedOnly(ctx, key)
	}
	claim, err := n.claim(ctx, key, func(ctx context.Context) (*exchange.Claim, error) {
		return n.exchange().ClaimAnswer(ctx, key, n.freshness())
	})
	if err != nil {
		return mutable{}, err
	}
	switch claim.Outcome {
	case exchange.Fetch:
		return n.refreshUnder(ctx, key, claim.Lease, refresh)
	case exchange.Answered:
		if err := checkAnswer(key, claim.Value); err != nil {
			n.log.Warn("an answer of another office makes no sense", "what", key, "peer", claim.Home.String(), "err", err)
			break
		}
		from := origin{fromPeer, n.officeOf(claim.Home)}
		if claim.Home == n.mesh.ID() {
			from = origin{kind: fromStore}
		}
		return mutable{claim.Value, claim.At, from}, nil
	}
	return refresh(ctx) // as with files: this office may know more
}

func (n *Node) refreshUnder(ctx context.Context, key string, lease *exchange.Lease, refresh func(context.Context) (mutable, error)) (mutable, error) {
	defer lease.Close()
	stop := keepAlive(lease)
	defer stop()
	m, err := refresh(ctx)
	stop()
	switch {
	case err == nil:
		n.settled(key, lease.Answer(ctx, m.value, m.at))
	case isAnswer(err):
		n.settled(key, lease.Refuse(ctx, protocol.StatusOf(err), err.Error()))
	default:
		n.settled(key, lease.Fail(ctx, err.Error()))
	}
	return m, err
}

// sharedOnly asks other offices for the newest answer that they know, for an
// office without upstreams.
func (n *Node) sharedOnly(ctx context.Context, key string) (mutable, error) {
	m, err := n.heard(ctx, key, checkAnswer)
	if err != nil {
		return mutable{}, n.onlyMesh(key, err)
	}
	return m, nil
}

// heard asks other offices for the newest answer that they know.
func (n *Node) heard(ctx context.Context, key string, check func(key string, value []byte) error) (mutable, error) {
	answers, err := n.exchange().Answers(ctx, key, true)
	if err != nil {
		return mutable{}, err
	}
	for _, a := range answers { // newest first
		if err := check(key, a.Value); err != nil {
			n.log.Warn("an answer of another office makes no sense", "what", key, "peer", a.From.String(), "err", err)
			continue
		}
		return mutable{a.Value, a.At, origin{fromPeer, n.officeOf(a.From)}}, nil
	}
	return mutable{}, exchange.ErrUnknown
}

// rememberFor is how long a failure is the answer to the same question: long
// enough for the retries of one build, short enough that nobody waits for it.
func rememberFor(err error) time.Duration {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errClosed), errors.Is(err, errAhead):
		return 0
	case isAnswer(err):
		return 2 * time.Second
	case protocol.StatusOf(err) == http.StatusInternalServerError:
		return 0 // a fault of this node: trying again costs nobody else
	}
	return time.Second
}
