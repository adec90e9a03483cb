package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/semaphore"

	"github.com/meshproxy/meshproxy/verify"
)

// Options of a store; zero values work.
type Options struct {
	Logger *slog.Logger
	// Reserve is the space that stays free on the disk, in bytes; 512 MiB when 0.
	// Below it writes fail with ErrFull.
	Reserve int64
	// MaxSize is the size of files, in bytes, above which zips that were not read
	// for long are dropped; none when 0. See GC.
	MaxSize int64
	// MaxAge is how long a zip is kept since it was last read; for ever when 0.
	MaxAge time.Duration
	// ScrubRate is how fast Run re-reads the store, in bytes a second; 4 MiB when
	// 0, not at all when negative.
	ScrubRate int64
	// MemTable is the memory, in bytes, that a table of new values takes before it is
	// written to disk as a whole, and what a restart after a crash replays at most;
	// 16 MiB when 0. It bounds the files of one zip: 2 MiB are enough for a
	// thousand.
	MemTable int64
	// MayDrop is asked before a zip is dropped; false keeps it, because it may be
	// the last copy in the mesh. Nil allows all.
	MayDrop func(ctx context.Context, root verify.Digest) (bool, error)
	// Heal fetches a damaged file again and calls PutRaw. Nil leaves it in
	// quarantine until somebody does.
	Heal func(ctx context.Context, sum verify.Digest) error
	// Clock is time.Now when nil.
	Clock func() time.Time

	tune func(badger.Options) badger.Options // for tests
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Reserve == 0 {
		o.Reserve = defaultReserve
	}
	if o.ScrubRate == 0 {
		o.ScrubRate = 4 << 20
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
}

// Store is an open store. Its methods may be called at the same time.
type Store struct {
	o    Options
	dir  string
	data string // Badger's directory
	lock *os.File
	db   *badger.DB

	writes    chan *write
	syncs     chan *write
	idle      chan struct{} // closed when writer and syncer have ended
	failed    failure
	maxSize   atomic.Int64 // limits, see Limits
	maxAge    atomic.Int64 // a time.Duration
	broken    atomic.Bool  // failed so that reading is not safe either
	acct      Accounting   // owned by the writer
	number    uint64       // owned by the writer: of the newest stream
	arrival   uint64       // owned by the writer: the latest time in the index of arrivals
	published atomic.Pointer[Accounting]
	epoch     atomic.Uint64
	lost      int    // keys that were lost and put back by Open
	synced    string // owned by the syncer: files whose directory entry is durable
	syncCount atomic.Int64
	garbage   atomic.Int64 // bytes of streams deleted since space was last given back
	dropped   atomic.Int64 // zips that were dropped since the store was opened

	spooled    *semaphore.Weighted // bytes of streams that wait in memory
	reclaiming chan struct{}       // holds one token while space is given back
	closing    chan struct{}       // closed by Close, before it waits for calls
	mu         sync.Mutex          // guards what follows
	closed     bool
	calls      int // calls under way
	drained    chan struct{}
	snapshots  map[*snapshot]struct{}
	stages     map[verify.Digest]*stage
	filling    map[verify.Digest]chan struct{} // large files being written
	bad        map[verify.Digest]struct{}      // files in quarantine
	reads      map[verify.Digest]int64         // last read of zips, not yet written: unix seconds
	heal       []verify.Digest                 // damaged files that nobody was told of
	wake       chan struct{}                   // tells Run that heal is not empty

	cache  *cache
	heads  *heads
	hot    *hot
	upkeep upkeep
}

// Open opens or creates the store in dir, and gives back what a crash left
// unfinished. ErrLocked: another process has it open. ErrNewer: it needs a newer
// version of this program. The caller must Close it.
func Open(dir string, o Options) (*Store, error) {
	o.defaults()
	s := newStore(dir, filepath.Join(dir, "badger"), o)
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

func newStore(dir, data string, o Options) *Store {
	s := &Store{
		o: o, dir: dir, data: data,
		writes: make(chan *write, maxBatchOps), syncs: make(chan *write, maxBatchOps), idle: make(chan struct{}),
		reclaiming: make(chan struct{}, 1), closing: make(chan struct{}), drained: make(chan struct{}), wake: make(chan struct{}, 1),
		snapshots: make(map[*snapshot]struct{}), stages: make(map[verify.Digest]*stage),
		filling: make(map[verify.Digest]chan struct{}), spooled: semaphore.NewWeighted(maxSpoolBytes), bad: make(map[verify.Digest]struct{}),
		reads: make(map[verify.Digest]int64), cache: newCache(), heads: newHeads(), failed: failure{ch: make(chan struct{})},
		hot: newHot(filepath.Join(dir, spoolName), o.Clock),
	}
	s.SetLimits(o.MaxSize, o.MaxAge)
	return s
}

// open takes the directory, and starts the store in it.
func (s *Store) open() (err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if s.lock, err = lockDir(s.dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.lock.Close()
		}
	}()
	if err := s.urgentRoom(0); err != nil {
		return err
	}
	if err := s.room(0); err != nil {
		s.o.Logger.Warn("store opens, but nothing can be added", "error", err)
	}
	if err := s.checkAfterCrash(); err != nil {
		return err
	}
	if err := s.repairFirst(context.Background()); err != nil {
		return err
	}
	if err := s.setOpenMarker(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.spool()); err != nil { // what a crash left half received
		return err
	}
	if err := os.Mkdir(s.spool(), 0o700); err != nil {
		return err
	}
	err = s.start()
	if errors.Is(err, ErrNewer) {
		// Nothing was written: the next one to open it need not suspect a crash.
		err = errors.Join(err, s.clearOpenMarker())
	}
	return err
}

// start opens the database, begins to write, and gives back what a crash left.
func (s *Store) start() (err error) {
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return err
	}
	if err := tidy(s.data); err != nil {
		return err
	}
	mended, err := mendManifest(s.data, s.o.Logger)
	if err != nil {
		return err
	}
	if mended {
		s.needsRepair("changes of tables were taken back")
	}
	o := badgerOptions(s.data, s.o)
	if err := spareNewestLog(s.data, o); err != nil {
		return err
	}
	if s.db, err = badger.Open(o); err != nil {
		return fmt.Errorf("%w; if the disk is sound, restore a backup, or move %s away and have everything fetched again", err, s.data)
	}
	if err := s.load(); err != nil {
		return errors.Join(err, s.db.Close())
	}
	go s.writer()
	go s.syncer()
	if err := s.recover(); err != nil {
		return errors.Join(err, s.stop())
	}
	s.loadUpkeep()
	if s.lost > 0 {
		s.upkept(func(u *upkeep) bool { u.last.Lost += s.lost; return true })
	}
	return nil
}

// spool is where files too large for memory wait until they are checked.
func (s *Store) spool() string { return filepath.Join(s.dir, spoolName) }

const spoolName = "tmp"

// load brings the database to the schema of this program, and reads what is kept
// in memory.
func (s *Store) load() error {
	restored, err := restoreSchema(s.db, s.data)
	if err != nil {
		return err
	}
	if err := migrate(s.db, migrations); err != nil {
		return err
	}
	if err := s.loadSingle(restored); err != nil {
		return err
	}
	s.noteSchema()
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	return scan(txn, []byte{spaceDamage}, nil, false, func(item *badger.Item) error {
		d, err := parseDigest(item.Key())
		s.bad[d] = struct{}{}
		return err
	})
}

// enter begins a call; leave ends it. Close waits for all.
func (s *Store) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.broken.Load() {
		return s.failed.get()
	}
	s.calls++
	return nil
}

func (s *Store) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	if s.closed && s.calls == 0 {
		close(s.drained)
	}
}

// Close waits for calls under way, writes what is pending and gives up the
// directory. Zips that are still open read ErrClosed from then on. Staged zips
// that were not committed are given back on the next Open.
func (s *Store) Close() error {
	if s.enter() == nil {
		s.flushReads(context.Background())
		s.leave()
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil
	}
	err := s.stop()
	if err == nil {
		err = s.clearOpenMarker()
	}
	return errors.Join(err, os.RemoveAll(s.spool()), s.lock.Close())
}

// stop ends what start began.
func (s *Store) stop() error {
	s.mu.Lock()
	s.closed = true
	close(s.closing)
	if s.calls == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	<-s.drained
	close(s.writes)
	<-s.idle
	s.hot.close()
	for snap := range s.snapshots { // no call is left that could use it
		snap.txn.Discard()
	}
	if s.broken.Load() {
		return s.failed.get() // to close the database may not end
	}
	var err error
	if s.failed.get() == nil {
		err = s.sync()
	}
	return errors.Join(err, s.db.Close())
}

// Accounting returns the counts after the last change.
func (s *Store) Accounting() Accounting { return *s.published.Load() }

// snapshot reads the store as it was at one moment, until it is closed. An open
// one keeps Badger from freeing what was dropped since.
type snapshot struct {
	s   *Store
	txn *badger.Txn
}

func (s *Store) snapshot() (*snapshot, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	snap := &snapshot{s: s, txn: s.db.NewTransaction(false)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots[snap] = struct{}{}
	return snap, nil
}

func (p *snapshot) close() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if _, ok := p.s.snapshots[p]; ok && !p.s.closed {
		delete(p.s.snapshots, p)
		p.txn.Discard()
	}
}

// view runs fn on a snapshot for the length of a call.
func (s *Store) view(fn func(txn *badger.Txn) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	return fn(txn)
}

var _ io.Closer = (*Store)(nil)
