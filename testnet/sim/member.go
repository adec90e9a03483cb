package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

// newsDelay is how long a member waits before it tells home peers what it has, as
// an office does.
const newsDelay = 200 * time.Millisecond

// start lets a member run. It is called, as is stop, by the goroutine that drives
// the world.
func (m *Member) start() {
	w := m.w
	m.x = exchange.New(exchange.Config{Host: m.host, Members: view{w}, Backend: m.backend, Log: w.cfg.Log})
	ctx, cancel := context.WithCancel(context.Background())
	m.ctx, m.wg = ctx, new(sync.WaitGroup)
	if w.cfg.Repair {
		x := m.x
		m.wg.Go(func() {
			x.Repair(ctx, exchange.RepairOptions{Holdings: holdings{m}, Replicas: w.cfg.Replicas})
		})
	}
	m.stop = func() error {
		cancel()
		err := m.x.Close()
		m.wg.Wait()
		m.x = nil
		return err
	}
}

// Source says where a file came from.
type Source string

// Sources.
const (
	FromStore    Source = "store"
	FromPeer     Source = "peer"
	FromUpstream Source = "upstream"
)

// Get obtains a file as an office does: from its store, from members that have it,
// or by a first fetch under a claim.
func (m *Member) Get(ctx context.Context, r *Release, k verify.Kind) (Source, error) {
	n := r.Name(k)
	if m.backend.holds(n) {
		return FromStore, nil
	}
	reply, err := m.x.Records(ctx, []verify.Name{n}, exchange.RecordsOptions{})
	if err == nil {
		if f := reply.Found[0]; len(f.Records) > 0 {
			if err = m.take(ctx, r, f.Records[0], f.Holders); err == nil {
				return FromPeer, nil
			}
		}
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return m.claim(ctx, r, k)
}

// maxClaims is how often a file is claimed again that its holders did not give.
const maxClaims = 3

func (m *Member) claim(ctx context.Context, r *Release, k verify.Kind) (Source, error) {
	n := r.Name(k)
	for range maxClaims {
		c, err := m.x.Claim(ctx, n)
		if err != nil {
			return "", err
		}
		switch c.Outcome {
		case exchange.Fetch:
			return FromUpstream, m.fetch(ctx, r, k, c.Lease)
		case exchange.Held:
			if err = m.take(ctx, r, c.Record, c.Holders); err == nil {
				return FromPeer, nil
			}
		default:
			return "", fmt.Errorf("claim of %v: %v: %s", n, c.Outcome, c.Text)
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	return FromUpstream, m.fetch(ctx, r, k, nil)
}

// fetch gets a file from the world outside, under a lease if there is one.
func (m *Member) fetch(ctx context.Context, r *Release, k verify.Kind, l *exchange.Lease) error {
	if l != nil {
		defer l.Close()
	}
	if err := m.w.upstream(ctx, r.Name(k)); err != nil {
		return err
	}
	s, err := m.sign(r, k)
	if err != nil {
		return err
	}
	if err := m.backend.Accept(ctx, m.host.id, s); err != nil {
		return err
	}
	if k == verify.Zip {
		m.backend.fetched(r)
	}
	m.tell(s)
	if l == nil {
		return nil
	}
	if err := l.Done(ctx, s); err != nil && m.ctx.Err() == nil {
		m.w.cfg.Log.Debug("others could not be told of a fetch", "name", s.Record.Name, "err", err)
	}
	return nil
}

func (m *Member) sign(r *Release, k verify.Kind) (*verify.Signed, error) {
	rec := &verify.Record{
		Mesh: "simulated", Name: r.Name(k), Digest: r.root, Size: r.size, Fetched: time.Now().Truncate(time.Second).UTC(),
		Office: m.office, Source: "proxy example.test", Vouch: verify.Vouch{By: verify.ByMember},
	}
	if k == verify.Mod {
		rec.Digest, rec.Data, rec.Size = verify.DigestMod(r.mod), r.mod, int64(len(r.mod))
	}
	return verify.Seal(rec, m.key)
}

// take keeps a record of another member, and for a zip gets the files.
func (m *Member) take(ctx context.Context, r *Release, s *verify.Signed, holders []peer.ID) error {
	if err := m.backend.Accept(ctx, "", s); err != nil {
		return err
	}
	if s.Record.Name.Kind != verify.Zip {
		return nil
	}
	if err := m.pull(ctx, s, holders, exchange.Client); err != nil {
		return err
	}
	m.tell(s)
	return nil
}

func (m *Member) pull(ctx context.Context, s *verify.Signed, holders []peer.ID, class exchange.Class) error {
	_, err := m.x.Pull(ctx, exchange.PullRequest{
		Module: s.Record.Name.Module, Root: s.Record.Digest, Holders: holders, Size: s.Record.Size, Class: class,
		Stage: func(_ context.Context, listing []byte) ([]verify.File, error) { return m.backend.stage(listing) },
	})
	if err != nil {
		return err
	}
	return m.backend.commit(s.Record.Digest)
}

// tell pushes a record to its home peers a little later.
func (m *Member) tell(s *verify.Signed) {
	x := m.x
	m.wg.Go(func() {
		select {
		case <-time.After(newsDelay):
			x.Push(m.ctx, []*verify.Signed{s}, func(*verify.Signed) bool { return m.backend.holds(s.Record.Name) })
		case <-m.ctx.Done():
		}
	})
}

// holdings is what a member's repair works on.
type holdings struct{ m *Member }

func (h holdings) Names(_ context.Context, fn func(verify.Name) error) error {
	for _, n := range h.m.backend.names() {
		if err := fn(n); err != nil {
			return err
		}
	}
	return nil
}

func (h holdings) Obtain(ctx context.Context, s *verify.Signed, holders []peer.ID) error {
	if h.m.backend.HasZip(s.Record.Digest) {
		return nil
	}
	if err := h.m.pull(ctx, s, holders, exchange.Background); err != nil {
		return err
	}
	h.m.pulls.Add(1)
	h.m.tell(s)
	return nil
}
