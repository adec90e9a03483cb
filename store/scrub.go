package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/time/rate"

	"github.com/meshproxy/meshproxy/verify"
)

// ScrubOptions says how to scrub.
type ScrubOptions struct {
	Rate     int64 // bytes of streams a second at most; no limit when 0
	Progress func(Progress)
}

// ScrubReport says what a scrub found.
type ScrubReport struct {
	Files, Bytes int64     // that were read
	Damaged      []Problem // files, zips and records that are damaged; the first 1,000
}

// Scrub reads everything once: it inflates and hashes each file, parses each
// listing and checks the signature of each record. What is damaged goes into
// quarantine, where Run has it healed, and is never served. A record that is
// damaged reads as ErrDamaged until a new one is committed.
func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (*ScrubReport, error) {
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	c := scrub{s: s, o: o, report: &ScrubReport{}, limit: rate.NewLimiter(rate.Inf, 0)}
	if o.Rate > 0 {
		c.limit = rate.NewLimiter(rate.Limit(o.Rate), max(chunkSize, int(o.Rate)))
	}
	s.upkeep.beginScrub()
	for _, step := range []func(context.Context) error{c.tables, c.files, c.zips, c.records} {
		if err := step(ctx); err != nil {
			s.endScrub(nil)
			return c.report, fmt.Errorf("scrub: %w", err)
		}
	}
	s.endScrub(c.report)
	return c.report, nil
}

type scrub struct {
	s      *Store
	o      ScrubOptions
	report *ScrubReport
	limit  *rate.Limiter
}

func (c *scrub) found(p Problem) {
	if len(c.report.Damaged) < maxProblems {
		c.report.Damaged = append(c.report.Damaged, p)
	}
}

// scrubBatch is how many keys a scrub reads ahead: it holds no snapshot while it
// waits, for that would keep deleted data on the disk.
const scrubBatch = 512

// each visits the keys of a keyspace, in batches.
func (c *scrub) each(ctx context.Context, space byte, fn func(k []byte) error) error {
	from := []byte{space}
	for {
		var keys [][]byte
		err := c.s.view(func(txn *badger.Txn) error {
			return scan(txn, []byte{space}, from, false, func(item *badger.Item) error {
				if keys = append(keys, item.KeyCopy(nil)); len(keys) == scrubBatch {
					return errStop
				}
				return nil
			})
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		for _, k := range keys {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(k); err != nil {
				return err
			}
		}
		from = append(keys[len(keys)-1], 0)
	}
}

// tables checks the tables of Badger itself. A damaged one is no matter of a
// single value: keys of it are missing, and older versions of them may show.
func (c *scrub) tables(context.Context) error {
	err := verifyTables(c.s.data, c.s.db.Opts())
	if errors.Is(err, ErrDamaged) {
		c.found(Problem{What: "database table", Err: err})
		c.s.needsRepair(err.Error())
		return nil
	}
	return err
}

func (c *scrub) files(ctx context.Context) error {
	total := c.s.Accounting().Files
	return c.each(ctx, spaceFile, func(k []byte) error {
		sum, err := parseDigest(k)
		if err != nil {
			c.found(Problem{What: describe(k), Err: err})
			return nil
		}
		c.o.Progress(Progress{Done: c.report.Files, Total: total, Bytes: c.report.Bytes, Current: sum.Hex()})
		err = c.file(ctx, sum)
		if errors.Is(err, ErrDamaged) {
			c.found(Problem{What: "file " + sum.Hex(), Err: err, Sum: sum})
			return nil
		}
		return err
	})
}

// file inflates and hashes a file. Content that is not what its name says is
// damage, although the checksum of the stream is good.
func (c *scrub) file(ctx context.Context, sum verify.Digest) error {
	f, r, err := c.s.OpenRaw(sum)
	if errors.Is(err, ErrNotFound) {
		return nil // wanted, dropped meanwhile, or in quarantine already
	}
	if err != nil {
		return err
	}
	defer r.Close()
	c.report.Files++
	c.report.Bytes += f.CompressedSize
	err = f.Verify(ctx, &limited{ctx: ctx, r: r, limit: c.limit})
	if errors.Is(err, ErrBadFile) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
		return errors.Join(err, c.s.quarantine(sum, err.Error()))
	}
	return err
}

func (c *scrub) zips(ctx context.Context) error {
	return c.each(ctx, spaceZip, func(k []byte) error {
		root, err := parseDigest(k)
		if err == nil {
			err = c.zip(root)
		}
		if errors.Is(err, ErrDamaged) {
			c.found(Problem{What: "zip " + root.H1(), Err: err, Sum: root})
			return nil
		}
		return err
	})
}

func (c *scrub) zip(root verify.Digest) error {
	err := c.s.view(func(txn *badger.Txn) error {
		held, err := hasKey(txn, digestKey(spaceZip, root))
		if err != nil || !held {
			return err
		}
		if _, err = getListing(txn, root); errors.Is(err, ErrNotFound) {
			err = damaged("zip "+root.H1(), errors.New("its listing is missing"))
		}
		return err
	})
	return c.s.suspectZip(root, err)
}

func (c *scrub) records(ctx context.Context) error {
	return c.each(ctx, spaceRecord, func(k []byte) error {
		n, err := parseRecordKey(k)
		if err == nil {
			err = c.s.view(func(txn *badger.Txn) error {
				_, err := getRecord(txn, n)
				return err
			})
		}
		if errors.Is(err, ErrDamaged) {
			c.s.cache.records.remove(n)
			p := Problem{What: describe(k), Err: err, Name: n}
			if n.Module.Path != "" {
				p.What = "record of " + n.String()
			}
			c.found(p)
			return nil
		}
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	})
}

// limited reads at a bounded rate.
type limited struct {
	ctx   context.Context
	r     io.Reader
	limit *rate.Limiter
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if werr := l.limit.WaitN(l.ctx, n); werr != nil {
		return n, werr
	}
	return n, err
}

// Run does what a store needs while it is open, until ctx ends: it writes down
// last reads, drops what is over Options.MaxSize and MaxAge, scrubs at ScrubRate,
// and has damaged files healed. It returns the error of ctx, or ErrFailed as soon
// as the store has failed: the process should end then and start anew.
func (s *Store) Run(ctx context.Context) error {
	const (
		flushEvery = time.Minute
		scrubEvery = 24 * time.Hour
		ageEvery   = time.Hour
	)
	ctx, cancel := context.WithCancel(ctx)
	scrubbing := make(chan struct{})
	go func() {
		defer close(scrubbing)
		s.scrubLoop(ctx, scrubEvery)
	}()
	defer func() {
		cancel()
		<-scrubbing
	}()
	flush, age := time.NewTicker(flushEvery), time.NewTicker(ageEvery)
	defer flush.Stop()
	defer age.Stop()
	s.rememberBad()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.failed.ch:
			return s.failed.get()
		case <-s.wake:
			s.healAll(ctx)
		case <-flush.C:
			s.flushReads(ctx)
			if maxSize, _ := s.Limits(); maxSize > 0 && s.Accounting().FileBytes > maxSize {
				s.collect(ctx)
			}
		case <-age.C:
			s.rememberBad()
			if _, maxAge := s.Limits(); maxAge > 0 {
				s.collect(ctx)
			}
		}
	}
}

func (s *Store) collect(ctx context.Context) {
	report, err := s.GC(ctx, GCOptions{})
	if err != nil && ctx.Err() == nil {
		s.o.Logger.Error("gc failed", "error", err)
	}
	if len(report.Dropped)+len(report.Kept) > 0 {
		s.o.Logger.Info("gc", "dropped", len(report.Dropped), "freed", report.FreedBytes, "last copies kept", len(report.Kept))
	}
}

func (s *Store) scrubLoop(ctx context.Context, every time.Duration) {
	if s.o.ScrubRate < 0 {
		return
	}
	// Not at once: whoever starts the node wants to use it. A machine that is never
	// on for a day has its store scrubbed all the same.
	timer := time.NewTimer(min(every, max(every/24, every-s.o.Clock().Sub(s.Upkeep().Scrubbed))))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		report, err := s.Scrub(ctx, ScrubOptions{Rate: s.o.ScrubRate})
		if err != nil && ctx.Err() == nil {
			s.o.Logger.Error("scrub failed", "error", err)
		} else if err == nil {
			s.o.Logger.Info("scrub", "files", report.Files, "bytes", report.Bytes, "damaged", len(report.Damaged))
		}
		timer.Reset(every)
	}
}

// rememberBad has everything in quarantine healed again, also what an earlier
// attempt or an earlier process could not.
func (s *Store) rememberBad() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heal = s.heal[:0]
	for d := range s.bad {
		s.heal = append(s.heal, d)
	}
	if len(s.heal) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// healAll asks Options.Heal for each file found damaged since the last time.
func (s *Store) healAll(ctx context.Context) {
	s.mu.Lock()
	todo := s.heal
	s.heal = nil
	s.mu.Unlock()
	if s.o.Heal == nil {
		return
	}
	for _, d := range todo {
		if ctx.Err() != nil {
			return
		}
		if !s.isBad(d) {
			continue
		}
		if err := s.o.Heal(ctx, d); err != nil {
			s.o.Logger.Warn("damaged file could not be healed, it is tried again within the hour", "sha256", d.Hex(), "error", err)
			continue
		}
		if !s.isBad(d) {
			s.o.Logger.Info("damaged file is whole again", "sha256", d.Hex())
		}
	}
}

// Needs lists the zips whose listing names a file, by root, so that whoever heals
// it knows which modules to ask for. It reads all listings: damage is rare.
func (s *Store) Needs(ctx context.Context, sum verify.Digest) ([]Held, error) {
	held, err := s.Held(ctx)
	if err != nil {
		return nil, err
	}
	var list []Held
	for _, h := range held {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := s.view(func(txn *badger.Txn) error {
			files, err := getSums(txn, h.Root)
			for _, f := range files {
				if f.Sum == sum {
					list = append(list, h)
					break
				}
			}
			return err
		})
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if h.Root == sum {
			list = append(list, h)
		}
	}
	return list, nil
}
