package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// errRejected marks what a source sent and what does not check.
var errRejected = errors.New("it sent what does not check")

// DatabaseOptions says which database, where its verified bytes are kept and how
// it is reached.
type DatabaseOptions struct {
	Spec    Spec
	Cache   DBCache
	Sources []Source // asked in this order; those that failed lately, last
	// Recorded returns a proof that came with the record of a file of m, or nil: it
	// saves the lookup, and is checked as the answer to one would be. nil: there are none
	Recorded func(m module.Version) *Proof
	// Timeout bounds one read from a source, so that a source that stalls gives way
	// to the next. Default: 10 s.
	Timeout time.Duration
	// Hedge is how long a source may take for what was asked before the next one is
	// asked beside it. Default: 1 s.
	Hedge time.Duration
	// Parallel is how many reads from sources go on at once. Default: 64.
	Parallel int
	Log      *slog.Logger // default: none
	// OnFork is told of each new fork, OnReject of each source that sent something
	// that does not check. Both are called from the goroutine that found it.
	OnFork   func(Fork)
	OnReject func(source string, err error)
}

// Database is a client of one checksum database. Its timeline of signed tree heads
// only ever grows, across restarts too. It keeps no errors: what failed is tried
// again when it is asked again. It is used from many goroutines at once, and has
// none of its own but those that work for a caller who waits.
type Database struct {
	name      string
	prefix    string // of all keys in the cache: a new key is a new database
	spec      Spec
	verifier  note.Verifier
	cache     DBCache
	sources   []*source
	recorded  func(module.Version) *Proof
	timeout   time.Duration
	hedge     time.Duration
	slots     chan struct{} // held during a read from a source
	log       *slog.Logger
	onFork    func(Fork)
	onReject  func(string, error)
	extending chan struct{} // held by the one whose turn it is to make the timeline longer
	tiles     flights[[]byte]
	lookups   flights[*Proof]
	answers   flights[[]byte]
	stats     counters

	saving     sync.Mutex // held while a cached tile is compared and replaced
	installing sync.Mutex // held while the latest head is compared and replaced

	mu        sync.Mutex
	head      treeHead  // the latest, guarded by mu
	offered   treeHead  // the greatest that waits to become the latest, guarded by mu
	forks     []Fork    // guarded by mu
	refreshed time.Time // when the head was last asked for, guarded by mu
}

// NewDatabase returns the client of a database, with the timeline that Cache
// holds. It reaches no source yet. It fails if Spec is of no database, or if the
// cached tree head is damaged.
func NewDatabase(o DatabaseOptions) (*Database, error) {
	v, err := note.NewVerifier(o.Spec.Key)
	if err != nil {
		return nil, fmt.Errorf("checksum database %q: %w", o.Spec.Name, err)
	}
	if err := checkDatabaseName(v.Name()); err != nil {
		return nil, err
	}
	d := &Database{
		name: v.Name(), prefix: fmt.Sprintf("%s+%08x/", v.Name(), v.KeyHash()), spec: o.Spec, verifier: newRemembering(v),
		cache: o.Cache, timeout: o.Timeout, hedge: o.Hedge, log: o.Log, onFork: o.OnFork, onReject: o.OnReject, recorded: o.Recorded,
		extending: make(chan struct{}, 1),
	}
	if d.timeout <= 0 {
		d.timeout = 10 * time.Second
	}
	if d.hedge <= 0 {
		d.hedge = time.Second
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if o.Parallel <= 0 {
		o.Parallel = 64
	}
	d.slots = make(chan struct{}, o.Parallel)
	for i, s := range o.Sources {
		d.sources = append(d.sources, &source{Source: s, id: strconv.Itoa(i)})
	}
	if err := d.loadHead(); err != nil {
		return nil, err
	}
	d.loadForks()
	return d, nil
}

// Name is the database's name, as in its key and under /sumdb/.
func (d *Database) Name() string { return d.name }

// Verifier checks the database's signatures.
func (d *Database) Verifier() note.Verifier { return d.verifier }

// Prove returns the proof of what the database says of m. From the cache it needs
// no source. The error is fs.ErrNotExist when the database does not know m, and
// ErrUnavailable when no source gave an answer that checks.
func (d *Database) Prove(ctx context.Context, m module.Version) (*Proof, error) {
	key, err := lookupKey(m)
	if err != nil {
		return nil, err
	}
	if p := d.cachedProof(m, key); p != nil {
		d.stats.hits.Add(1)
		return p, nil
	}
	return d.lookups.do(ctx, key, func(ctx context.Context) (*Proof, error) {
		if p := d.cachedProof(m, key); p != nil {
			return p, nil // another lookup ended since
		}
		if p, err := d.adopt(ctx, m, key); p != nil || err != nil {
			return p, err
		}
		return try(ctx, d, func(ctx context.Context, src *source) (*Proof, error) {
			return d.lookup(ctx, src, m, key)
		})
	})
}

// Known is Prove from the cache alone: the error is ErrNotCached if m was never
// looked up.
func (d *Database) Known(m module.Version) (*Proof, error) {
	key, err := lookupKey(m)
	if err != nil {
		return nil, err
	}
	if p := d.cachedProof(m, key); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("checksum database %s: %s: %w", d.name, m, ErrNotCached)
}

// lookupKey is m as lookups spell it, escaped. It wraps fs.ErrInvalid if m is no
// module version.
func lookupKey(m module.Version) (string, error) {
	if err := checkModule(m); err != nil {
		return "", fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	return path + "@" + version, nil
}

// cachedProof returns the kept proof of m. Checking it again costs a signature,
// and makes a damaged cache harmless.
func (d *Database) cachedProof(m module.Version, key string) *Proof {
	data := d.cached(d.prefix + "proof/" + key)
	if data == nil {
		return nil
	}
	p := new(Proof)
	err := decodeExact(decMode, data, p)
	if err == nil {
		err = p.Check(d.verifier)
	}
	if err == nil {
		err = p.speaksOf(m)
	}
	if err != nil {
		d.log.Warn("cached proof is damaged; looking the module up again", "database", d.name, "module", m, "error", err)
		return nil
	}
	return p
}

// lookup asks src for m, checks everything, and keeps the proof.
func (d *Database) lookup(ctx context.Context, src *source, m module.Version, key string) (*Proof, error) {
	d.stats.lookups.Add(1)
	body, err := d.read(ctx, src, "/lookup/"+key)
	if err != nil {
		return nil, err
	}
	id, text, rest, err := tlog.ParseRecord(body)
	if err != nil {
		return nil, fmt.Errorf("%w: lookup of %s: %w", errRejected, m, err)
	}
	if err := (&Proof{Text: text}).speaksOf(m); err != nil {
		return nil, fmt.Errorf("%w: lookup of %s: %w", errRejected, m, err)
	}
	h, err := openHead(rest, d.verifier)
	if err != nil {
		return nil, fmt.Errorf("%w: lookup of %s: %w", errRejected, m, err)
	}
	return d.settle(ctx, src, m, key, h, id, text)
}

// adopt takes the proof that came with a record of m for the answer to a lookup. It
// returns nil without an error if there is none that will do. The error is
// ErrSecurity: the database has two histories, and a lookup is no remedy.
func (d *Database) adopt(ctx context.Context, m module.Version, key string) (*Proof, error) {
	if d.recorded == nil {
		return nil, nil
	}
	p := d.recorded(m)
	if p == nil || p.Check(d.verifier) != nil || p.speaksOf(m) != nil {
		return nil, nil
	}
	h, err := openHead(p.TreeHead, d.verifier)
	if err != nil {
		return nil, nil
	}
	if h.tree.N > d.latest().tree.N {
		// Records come by the hundred, and their heads one after the other: the latest
		// has all of them in its past.
		if err := d.Refresh(ctx); err != nil {
			d.log.Debug("no latest tree head", "database", d.name, "error", err)
		}
	}
	p, err = try(ctx, d, func(ctx context.Context, src *source) (*Proof, error) {
		return d.settle(ctx, src, m, key, h, p.ID, p.Text)
	})
	if err != nil && !errors.Is(err, ErrSecurity) {
		d.log.Debug("a proof that came with a record is of no use", "database", d.name, "module", m, "error", err)
		return nil, nil
	}
	return p, err
}

// settle keeps the proof of what the database says of m: record id of a tree with
// head h.
func (d *Database) settle(ctx context.Context, src *source, m module.Version, key string, h treeHead, id int64, text []byte) (*Proof, error) {
	if err := d.place(ctx, src, h); err != nil {
		return nil, err
	}
	p, err := d.prove(ctx, src, id, text)
	if err != nil {
		return nil, fmt.Errorf("lookup of %s: %w", m, err)
	}
	d.save(d.prefix+"proof/"+key, must(encMode.Marshal(p)))
	return p, nil
}

// prove shows that the latest tree has text as its record id.
func (d *Database) prove(ctx context.Context, src *source, id int64, text []byte) (*Proof, error) {
	latest := d.latest()
	if id < 0 || id >= latest.tree.N {
		return nil, fmt.Errorf("%w: record %d in a tree of %d", errRejected, id, latest.tree.N)
	}
	r := d.reader(ctx, src, latest.tree)
	defer r.close()
	path, err := tlog.ProveRecord(latest.tree.N, id, r)
	if err != nil {
		return nil, err
	}
	p := newProof(latest.note, id, text, path)
	if err := p.Check(d.verifier); err != nil {
		return nil, fmt.Errorf("%w: %w", errRejected, err)
	}
	// The tiles of a proof are those that a client reads to check the record, save in
	// a tree of one record, whose proof is empty.
	if latest.tree.N == 1 {
		if _, err := r.ReadHashes([]int64{tlog.StoredHashIndex(0, id)}); err != nil {
			return nil, err
		}
	}
	r.commit()
	return p, nil
}

// cached reads the cache. An unreadable entry is as good as none.
func (d *Database) cached(key string) []byte {
	data, err := d.cache.Get(key)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("cannot read the cache of the checksum database", "key", key, "error", err)
		}
		return nil
	}
	return data
}

// save puts verified bytes into the cache. What cannot be kept is fetched again.
func (d *Database) save(key string, value []byte) {
	if err := d.cache.Put(key, value); err != nil {
		d.log.Warn("cannot write the cache of the checksum database", "key", key, "error", err)
	}
}

// Stats counts what a Database did since it was made.
type Stats struct {
	Lookups  int64 // lookups asked of sources
	Tiles    int64 // tiles asked of sources
	Heads    int64 // latest tree heads asked of sources
	Hits     int64 // proofs answered from the cache
	Failures int64 // answers of sources that were late, lost or refused
	Rejected int64 // of these, those that did not check
}

type counters struct{ lookups, tiles, heads, hits, failures, rejected atomic.Int64 }

// Stats returns the counts so far.
func (d *Database) Stats() Stats {
	c := &d.stats
	return Stats{c.lookups.Load(), c.tiles.Load(), c.heads.Load(), c.hits.Load(), c.failures.Load(), c.rejected.Load()}
}

// covers reports whether the database is the one to ask about path, as far as its
// own patterns say.
func (d *Database) covers(path string) bool {
	return d.spec.Only == "" || module.MatchPrefixPatterns(d.spec.Only, path)
}
