package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/mod/module"
	"golang.org/x/sync/semaphore"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// What callers tell apart with errors.Is.
var (
	// ErrUnreached: no peer answered. It says nothing about what peers have.
	ErrUnreached = errors.New("no peer was reached")
	// ErrUnknown: peers were reached, and none of them has it.
	ErrUnknown = errors.New("no reachable peer has it")
	// ErrUnwanted: a record is good as far as can be told, and this node keeps none of
	// its module. A Backend says so.
	ErrUnwanted = errors.New("nothing of this module is kept here")
	// ErrClosed: the exchange was closed.
	ErrClosed = errors.New("exchange is closed")
)

// Members is who belongs to the mesh, as the membership layer sees it now. Its
// methods are called often and must neither block nor be slow.
type Members interface {
	// Members returns the peers with a valid credential, reachable or not.
	// Whether this node is among them makes no difference.
	Members() []peer.ID
	// Connected returns the members that a connection is open to.
	Connected() []peer.ID
	// IsMember reports whether p has a valid credential.
	IsMember(p peer.ID) bool
	// Office names the office that p stands in; "" if that is not known.
	Office(p peer.ID) string
}

// Routing finds holders of a root when nobody near knows them; kad-dht's
// IpfsDHT is one.
type Routing interface {
	FindProvidersAsync(ctx context.Context, c cid.Cid, count int) <-chan peer.AddrInfo
}

// Backend is what this node itself has. It never asks the network. All methods
// are called concurrently. What is not there is an error, and so is what cannot
// be read: to other members the two are the same. *store.Store has the methods
// about files.
type Backend interface {
	// Record returns the statement that this node holds about n.
	Record(n verify.Name) (*verify.Signed, error)
	// HasZip reports whether every file of root is here.
	HasZip(root verify.Digest) bool
	// Listing returns the listing under root.
	Listing(root verify.Digest) ([]byte, error)
	// OpenRaw opens the stored stream of a file.
	OpenRaw(sum verify.Digest) (modzip.Raw, io.ReadCloser, error)
	// PutRaw verifies a stream while it reads it and keeps it, durably when it
	// returns, if it is what f says; modzip.ErrBadFile says that it is not. It
	// reads no more than f.CompressedSize bytes.
	PutRaw(ctx context.Context, f modzip.Raw, r io.Reader) error
	// PutContents keeps files, durably when it returns, if each has the SHA-256 that
	// its sum says; else it is modzip.ErrBadFile, and none is kept.
	PutContents(ctx context.Context, contents []modzip.Content) error
	// Accept is this node's door for a record that a peer handed over: it checks
	// who vouches for it and keeps it, or says why not. A *store.ConflictError
	// says that another digest was there first; ErrUnwanted that others may want it: who
	// waits for it here is told of it all the same.
	Accept(ctx context.Context, from peer.ID, s *verify.Signed) error
	// Answer returns the newest answer known for a key and when it was made.
	Answer(key string) (value []byte, at time.Time, err error)
	// KeepAnswer keeps an answer that a peer, who was told to fetch it, gave.
	KeepAnswer(ctx context.Context, from peer.ID, key string, value []byte, at time.Time) error
}

// Config says what an Exchange works on. Host, Members and Backend are needed;
// the zero values of the rest work.
type Config struct {
	Host    host.Host
	Members Members
	Backend Backend
	Routing Routing // nil: holders are only those that members name

	Homes  int           // home peers asked and kept informed for each name; 0 is 3
	Budget time.Duration // for a question to members, beyond the round trip, when there is another way; 0 is 300 ms
	Stall  time.Duration // a fetcher without progress for so long is replaced; 0 is 30 s

	// Share reports whether member p may have, or learn anything of, the module of a
	// path; nil is yes. It is asked for every name and peer, in both directions: who
	// may not learn of a module is not asked about it either. It must neither block
	// nor be slow, and may change its mind at any time.
	Share func(p peer.ID, path string) bool
	// Near returns at most limit module versions that came here about when the file n
	// did, without n itself; nil is none. What one build fetched, another will want
	// together. It is a hint.
	Near     func(n verify.Name, limit int) []module.Version
	Up, Down Bandwidth                  // limits of what is sent and received
	CutOff   func(p peer.ID, err error) // told of a peer that keeps lying; must not block

	Log     *slog.Logger          // nil is slog.Default()
	Tracer  trace.Tracer          // of streams that belong to a trace, here or at the asker; nil is none
	Metrics prometheus.Registerer // nil is none
}

// Defaults of Config.
const (
	defaultHomes  = 3
	defaultBudget = 300 * time.Millisecond
	defaultStall  = 30 * time.Second
)

// Exchange asks members and answers them. Its methods may be called concurrently.
type Exchange struct {
	cfg     Config
	self    peer.ID
	log     *slog.Logger
	health  *health
	limits  *limits
	holders *holderTable
	desk    *desk
	crowd   *crowd
	leases  *leaseTable
	metrics *metrics
	notify  *network.NotifyBundle
	repair  repairSignals
	drops   drops
	packing *semaphore.Weighted // frames of files that are made at the same time
	checks  *semaphore.Weighted // files that are verified and kept at the same time
	buffers *semaphore.Weighted // bytes of small files on their way into the store for which no client waits
	answers *places             // own streams of AnswersID
	files   *places             // own streams of FilesID

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed, and wg.Add against wg.Wait
	closed bool
	wg     sync.WaitGroup // every goroutine that this exchange started
	jobs   chan func()    // received from by those that are idle
}

// New returns an exchange that answers members from now on, until Close.
func New(cfg Config) *Exchange {
	if cfg.Homes == 0 {
		cfg.Homes = defaultHomes
	}
	if cfg.Budget == 0 {
		cfg.Budget = defaultBudget
	}
	if cfg.Stall == 0 {
		cfg.Stall = defaultStall
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	x := &Exchange{
		cfg: cfg, self: cfg.Host.ID(), log: cfg.Log,
		health:  newHealth(time.Now),
		limits:  newLimits(cfg.Up, cfg.Down),
		holders: newHolderTable(),
		desk:    newDesk(time.Now),
		crowd:   newCrowd(),
		leases:  newLeaseTable(),
		repair:  newRepairSignals(),
		drops:   drops{until: map[verify.Digest]time.Time{}},
		jobs:    make(chan func()),
		packing: semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
		checks:  semaphore.NewWeighted(int64(checksPerCore * runtime.GOMAXPROCS(0))),
		buffers: semaphore.NewWeighted(maxBufferedAhead),
		answers: newPlaces(AnswersID),
		files:   newPlaces(FilesID),
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.metrics = newMetrics(cfg.Metrics, x)
	x.notify = &network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		x.health.forget(c.RemotePeer())
		x.repair.changed()
	}, DisconnectedF: func(network.Network, network.Conn) { x.repair.changed() }}
	cfg.Host.Network().Notify(x.notify)
	x.serve()
	return x
}

// Close stops answering, ends all that is under way and waits for it.
func (x *Exchange) Close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	x.mu.Unlock()
	x.desk.close()
	for _, p := range protocols {
		x.cfg.Host.RemoveStreamHandler(p.id)
	}
	x.cfg.Host.Network().StopNotify(x.notify)
	x.cancel()
	x.wg.Wait()
	x.metrics.unregister()
	return nil
}

// within returns a context that ends with ctx or with the exchange.
func (x *Exchange) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(x.ctx, cancel)
	return ctx, func() { unhook(); cancel() }
}

// liar notes that p sent something that is not what it was said to be. A peer
// that keeps doing so is cut off.
func (x *Exchange) liar(p peer.ID, err error) {
	n := x.health.lied(p)
	x.metrics.lies.Inc()
	x.log.Warn("peer sent bytes that do not check; it is asked last for a while",
		"peer", p, "office", x.cfg.Members.Office(p), "times", n, "err", err)
	if n >= maxLies && x.cfg.CutOff != nil {
		x.cfg.CutOff(p, fmt.Errorf("sent bytes that do not check %d times, last: %w", n, err))
	}
}

// candidates returns the other members that are worth a question now: those
// connected, and those not known to be out of reach. Of members with a connection
// that lately failed to answer, all are worth it when there are no others: whoever is
// slow is better than nobody.
func (x *Exchange) candidates() (live, connected []peer.ID) { return x.others(false) }

// others is candidates; all says that connected members are worth it however they
// answered lately.
func (x *Exchange) others(all bool) (live, connected []peer.ID) {
	is := map[peer.ID]bool{}
	var tardy []peer.ID
	for _, p := range x.cfg.Members.Connected() {
		switch {
		case p == x.self || !x.cfg.Members.IsMember(p):
		case x.health.usable(p), all && !x.health.banned(p):
			connected = append(connected, p)
		case !x.health.banned(p):
			tardy = append(tardy, p)
		}
	}
	if len(connected) == 0 {
		connected = tardy
	}
	for _, p := range connected {
		is[p] = true
	}
	live = connected[:len(connected):len(connected)]
	for _, p := range x.cfg.Members.Members() {
		if p != x.self && !is[p] && x.health.usable(p) {
			is[p] = true
			live = append(live, p)
		}
	}
	return live, connected
}
