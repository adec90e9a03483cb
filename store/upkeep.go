package store

import (
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// Upkeep says what the store last did to keep itself small and whole. It outlives
// the process.
type Upkeep struct {
	Scrubbing bool      `json:"-"`         // a scrub is under way
	Scrubbed  time.Time `json:"scrubbed"`  // when the last whole scrub ended; zero if none did
	Files     int64     `json:"files"`     // that it read
	Bytes     int64     `json:"bytes"`     // that it read
	Found     int       `json:"found"`     // damaged files, zips and records, up to 1,000
	Lost      int       `json:"lost"`      // keys put back by Open since; what else was lost with them is not known
	Collected time.Time `json:"collected"` // when the last GC ended that was no dry run; zero if none did
	Dropped   int       `json:"dropped"`   // zips
	Kept      int       `json:"kept"`      // zips that should have gone, but may be the last copies
	Freed     int64     `json:"freed"`     // bytes
}

// upkeepName is under which SetMeta keeps the upkeep.
const upkeepName = "store/upkeep"

// upkeep remembers the last scrub and GC.
type upkeep struct {
	mu        sync.Mutex // guards what follows
	last      Upkeep
	scrubbing int
}

// Upkeep returns the last scrub and GC.
func (s *Store) Upkeep() Upkeep {
	s.upkeep.mu.Lock()
	defer s.upkeep.mu.Unlock()
	last := s.upkeep.last
	last.Scrubbing = s.upkeep.scrubbing > 0
	return last
}

// loadUpkeep reads what was kept before. What cannot be read is not known: it is
// a history, and nothing depends on it but when the next scrub is due.
func (s *Store) loadUpkeep() {
	text, err := s.Meta(upkeepName)
	var last Upkeep
	if err == nil {
		err = json.Unmarshal(text, &last)
	}
	switch {
	case err == nil:
		s.upkeep.mu.Lock()
		defer s.upkeep.mu.Unlock()
		s.upkeep.last = last
	case !errors.Is(err, ErrNotFound):
		s.o.Logger.Warn("when the store was last scrubbed is not known", "error", err)
	}
}

func (u *upkeep) beginScrub() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scrubbing++
}

// endScrub notes a scrub; one that was broken off has no report.
func (s *Store) endScrub(r *ScrubReport) {
	now := s.o.Clock().UTC()
	s.upkept(func(u *upkeep) bool {
		u.scrubbing--
		if r != nil {
			u.last.Scrubbed, u.last.Files, u.last.Bytes, u.last.Found = now, r.Files, r.Bytes, len(r.Damaged)
			u.last.Lost = 0
		}
		return r != nil
	})
}

func (s *Store) endGC(r *GCReport) {
	now := s.o.Clock().UTC()
	s.upkept(func(u *upkeep) bool {
		u.last.Collected, u.last.Dropped, u.last.Kept, u.last.Freed = now, len(r.Dropped), len(r.Kept), r.FreedBytes
		return true
	})
}

// upkept changes the upkeep, and writes it if change says that there is news.
func (s *Store) upkept(change func(*upkeep) bool) {
	s.upkeep.mu.Lock()
	news := change(&s.upkeep)
	text, err := json.Marshal(s.upkeep.last)
	s.upkeep.mu.Unlock()
	if news && err == nil {
		err = s.setValue(key(spaceMeta, upkeepName), text, false)
	}
	if err != nil {
		s.o.Logger.Warn("what was done for the store could not be written down", "error", err)
	}
}
