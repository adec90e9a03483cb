package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

const (
	// maxInquiries is how many questions to the mesh are under way at once. What
	// is asked meanwhile goes with the next one, so that a build that wants four
	// hundred go.mod files needs few round trips.
	maxInquiries = 4
	maxBatch     = 1024 // names in one question
	inquiryLimit = 10 * time.Second
)

// inquiries asks the other offices about many files at once.
type inquiries struct {
	ask func(context.Context, []verify.Name, []trace.SpanContext) (*exchange.Reply, error)
	// related is told of go.mod files that those found require.
	related func(context.Context, []module.Version)

	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool       // guarded by mu
	active  int        // guarded by mu; questions under way
	queue   []*inquiry // guarded by mu; in order of arrival
}

// inquiry is one caller's question about files of one module version.
type inquiry struct {
	names []verify.Name
	trace trace.SpanContext // that it belongs to, if it is valid
	done  chan struct{}     // closed when found, related and err are set
	found []exchange.Found
	err   error
}

func newInquiries(ask func(context.Context, []verify.Name, []trace.SpanContext) (*exchange.Reply, error), related func(context.Context, []module.Version)) *inquiries {
	life, end := context.WithCancel(context.Background())
	return &inquiries{ask: ask, related: related, life: life, end: end}
}

// about asks about files, in the company of whoever else asks now.
func (q *inquiries) about(ctx context.Context, names []verify.Name) ([]exchange.Found, error) {
	in := &inquiry{names: names, trace: trace.SpanContextFromContext(ctx), done: make(chan struct{})}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, errClosed
	}
	q.queue = append(q.queue, in)
	if q.active < maxInquiries {
		q.active++
		q.running.Go(q.work)
	}
	q.mu.Unlock()
	select {
	case <-in.done:
		return in.found, in.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// work asks until nobody waits any more.
func (q *inquiries) work() {
	for {
		batch, names := q.next()
		if len(batch) == 0 {
			return
		}
		reply, err := q.askAll(batch, names)
		at := make(map[verify.Name]exchange.Found)
		if err == nil {
			if len(reply.Related) > 0 {
				q.running.Go(func() { q.follow(reply.Related) })
			}
			for _, f := range reply.Found {
				at[f.Name] = f
			}
		}
		for _, in := range batch {
			in.err = err
			for _, name := range in.names {
				in.found = append(in.found, at[name])
			}
			close(in.done)
		}
	}
}

// later does work that nobody waits for, and that ends with these inquiries. It
// reports false if they have ended.
func (q *inquiries) later(work func(context.Context)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.running.Go(func() {
		ctx, cancel := context.WithTimeout(q.life, inquiryLimit)
		defer cancel()
		work(ctx)
	})
	return true
}

func (q *inquiries) follow(mods []module.Version) {
	ctx, cancel := context.WithTimeout(q.life, inquiryLimit)
	defer cancel()
	q.related(ctx, mods)
}

func (q *inquiries) askAll(batch []*inquiry, names []verify.Name) (reply *exchange.Reply, err error) {
	ctx, cancel := context.WithTimeout(q.life, inquiryLimit)
	defer cancel()
	var traces []trace.SpanContext
	for _, in := range batch {
		if in.trace.IsValid() {
			traces = append(traces, in.trace)
		}
	}
	return guarded(ctx, func(ctx context.Context) (*exchange.Reply, error) { return q.ask(ctx, names, traces) })
}

// next takes as many questions off the queue as fit one batch, with the distinct
// names in them; none when the queue is empty, and then the caller must end.
func (q *inquiries) next() (batch []*inquiry, names []verify.Name) {
	q.mu.Lock()
	defer q.mu.Unlock()
	seen := make(map[verify.Name]bool)
	for len(q.queue) > 0 && len(names) < maxBatch {
		in := q.queue[0]
		q.queue = q.queue[1:]
		batch = append(batch, in)
		for _, name := range in.names {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	if len(batch) == 0 {
		q.active--
	}
	return batch, names
}

func (q *inquiries) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.end()
	q.running.Wait()
}

// fromMesh brings a file from another office into the store. The error says
// whether nobody has it or nobody was reached.
func (n *errand) fromMesh(ctx context.Context) (origin, error) {
	name := n.name
	if _, reached := n.reach(); reached == 0 {
		return origin{}, exchange.ErrUnreached
	}
	if name.Kind == verify.Info {
		n.company(name.Module)
	}
	came := n.following.wait(ctx, name)
	if signed, err := n.store.Record(name); err == nil && name.Kind == verify.Zip {
		// The record came earlier, with the .info; only the files are missing.
		if from, err := n.pull(ctx, signed, nil); err == nil {
			return from, nil
		}
	} else if err == nil && came {
		return origin{fromPeer, n.officeOf(signed.Signer)}, nil
	}
	found, err := n.questions.about(ctx, n.wanted(name))
	if err != nil {
		return origin{}, err
	}
	// The others are admitted meanwhile: they share syncs to disk.
	var others errgroup.Group
	defer others.Wait()
	from, err := origin{}, error(exchange.ErrUnknown)
	for _, f := range found {
		if f.Name != name {
			others.Go(func() error {
				_, err := n.take(ctx, f)
				return err
			})
		}
	}
	for _, f := range found {
		if f.Name != name {
			continue
		}
		if from, err = n.take(ctx, f); err != nil && len(f.Records) > 0 {
			from, err = n.takeElsewhere(ctx, f, err)
		}
	}
	return from, err
}

// maxElsewhere bounds how often offices that were not heard are asked.
const maxElsewhere = 3

// takeElsewhere asks those offices that were not heard the first time, because
// somebody was faster, whose record or files turned out to be no good. err is what
// was wrong with them.
func (n *errand) takeElsewhere(ctx context.Context, f exchange.Found, err error) (origin, error) {
	var heard []peer.ID
	for range maxElsewhere {
		heard = append(append(heard, f.Senders...), f.Holders...)
		reply, askErr := n.exchange().Records(ctx, []verify.Name{n.name}, exchange.RecordsOptions{Except: heard, All: true, Patient: n.isOff()})
		if askErr != nil || len(reply.Found[0].Records) == 0 {
			return origin{}, err
		}
		f = reply.Found[0]
		from, takeErr := n.take(ctx, f)
		if takeErr == nil {
			return from, nil
		}
		err = errors.Join(err, takeErr)
	}
	return origin{}, err
}

// wanted is what is asked for along with a file. Who asks for an .info or a zip
// will ask for the other and the go.mod; who asks for a go.mod often wants
// nothing else.
func (n *Node) wanted(name verify.Name) []verify.Name {
	names := []verify.Name{name}
	if name.Kind == verify.Mod {
		return names
	}
	for _, k := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		other := verify.Name{Module: name.Module, Kind: k}
		if k == name.Kind {
			continue
		}
		if _, err := n.store.Record(other); err != nil {
			names = append(names, other)
		}
	}
	return names
}

// take admits what other offices said about one file, and if it is the zip that
// is wanted, also its files.
func (n *errand) take(ctx context.Context, f exchange.Found) (origin, error) {
	if f.Answered == 0 {
		return origin{}, exchange.ErrUnreached
	}
	if len(f.Records) == 0 {
		return origin{}, exchange.ErrUnknown
	}
	var errs []error
	for i, signed := range f.Records {
		from := origin{fromPeer, n.officeOf(first(f.Holders, signed.Signer))}
		seen := func() { n.arrived(from) }
		if f.Name.Kind == verify.Zip || f.Name != n.name {
			seen = nil // a record is not the file yet, or not the file that is waited for
		}
		if err := n.accept(ctx, f.Senders[i], signed, seen); err != nil {
			n.log.Warn("a record from another office was refused", "file", f.Name.String(), "office", n.officeOf(f.Senders[i]),
				"signer", signed.Signer.String(), "err", err)
			errs = append(errs, err)
			continue
		}
		if f.Name.Kind != verify.Zip {
			return from, nil
		}
		if f.Name != n.name {
			return origin{}, nil
		}
		return n.pull(ctx, signed, f.Holders)
	}
	return origin{}, errors.Join(errs...)
}

func first(ids []peer.ID, otherwise peer.ID) peer.ID {
	if len(ids) > 0 {
		return ids[0]
	}
	return otherwise
}

// meshText says in words what came of asking the mesh.
func (n *Node) meshText(err error) string {
	known, reached := n.reach()
	switch {
	case known == 0:
		return "no other office is known"
	case reached == 0:
		return fmt.Sprintf("none of the %d other offices is connected", known)
	case errors.Is(err, exchange.ErrUnknown):
		return fmt.Sprintf("none of the %d connected offices has it (%d are known)", reached, known)
	case err == nil:
		return fmt.Sprintf("%d of %d other offices are connected", reached, known)
	}
	return fmt.Sprintf("%d of %d other offices are connected: %s", reached, known, err)
}

// askMesh puts one batch to the mesh, as a part of the traces that wait for it.
func (n *Node) askMesh(ctx context.Context, names []verify.Name, traces []trace.SpanContext) (*exchange.Reply, error) {
	ctx, span := n.asking(ctx, names, traces)
	mods := slices.ContainsFunc(names, func(name verify.Name) bool { return name.Kind == verify.Mod })
	reply, err := n.exchange().Records(ctx, names, exchange.RecordsOptions{Related: mods, Near: mods && n.foreseen.begins(), Patient: n.isOff()})
	ended(span, err)
	return reply, err
}
