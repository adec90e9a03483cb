package store

import (
	"sync"
	"time"
)

// Upkeep says what the store last did to keep itself small and whole, since it
// was opened.
type Upkeep struct {
	Scrubbing bool         // a scrub is under way
	Scrubbed  time.Time    // when the last whole scrub ended; zero if none did
	Scrub     *ScrubReport // what it found
	Collected time.Time    // when the last GC ended that was no dry run; zero if none did
	GC        *GCReport    // what it did
}

// upkeep remembers the last scrub and GC.
type upkeep struct {
	mu        sync.Mutex // guards what follows
	last      Upkeep
	scrubbing int
}

// Upkeep returns the last scrub and GC. The reports are not to be changed.
func (s *Store) Upkeep() Upkeep {
	s.upkeep.mu.Lock()
	defer s.upkeep.mu.Unlock()
	last := s.upkeep.last
	last.Scrubbing = s.upkeep.scrubbing > 0
	return last
}

func (u *upkeep) beginScrub() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scrubbing++
}

// endScrub notes a scrub; one that was broken off has no report.
func (u *upkeep) endScrub(at time.Time, r *ScrubReport) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scrubbing--
	if r != nil {
		u.last.Scrubbed, u.last.Scrub = at.UTC(), r
	}
}

func (u *upkeep) endGC(at time.Time, r *GCReport) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last.Collected, u.last.GC = at.UTC(), r
}
