package exchange

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// The first files of a release follow its listing unasked when a client waits, the
// asker has no other version of it and nobody else fetches it here: the first byte for the client comes a round trip
// sooner. What is here already of these files is moved in vain, so they are few.

// lead is how many lines of a listing follow it unasked, of at most limit bytes.
func (x *Exchange) lead(given *given, limit uint64) (lines uint32) {
	limit = min(limit, maxLead)
	total := uint64(0)
	for _, f := range given.listing.Files[:min(len(given.listing.Files), maxLeadLines)] {
		raw, body, err := x.cfg.Backend.OpenRaw(f.Sum)
		if err != nil {
			break
		}
		body.Close()
		if total += uint64(raw.CompressedSize); total > limit {
			break
		}
		lines++
	}
	return lines
}

// sendLead sends these lines.
func (x *Exchange) sendLead(l *link, given *given) error {
	for line := range given.lead {
		if err := x.sendFile(l, line, given.listing.Files[line].Sum, 0); err != nil {
			return err
		}
	}
	return nil
}

// agreeLead notes how many lines the peer says will come unasked.
func (s *source) agreeLead(lines uint32) error {
	if lines > maxLeadLines || lines > 0 && !s.mayLead {
		return s.lie(fmt.Errorf("%d files follow the listing unasked: %w", lines, errLie))
	}
	s.lead = lines
	return nil
}

// led takes the next file that comes unasked, as far as it is not wanted here. done is
// false if it is to be received like any other.
func (s *source) led(head *fileHead) (done bool, err error) {
	if s.lead == 0 {
		return false, nil
	}
	line := s.opened.Lead - s.lead
	s.lead--
	s.ledBytes += head.Packed
	if head.Index != line || head.Packed > maxLead || s.ledBytes > maxLead || len(head.Lines) > 0 || head.From > 0 {
		return true, s.lie(fmt.Errorf("line %d of %d bytes where %d was to follow the listing: %w", head.Index, head.Packed, line, errLie))
	}
	if s.t.due(s, line) {
		return false, nil
	}
	if head.Missing {
		return true, nil
	}
	n, err := io.CopyN(io.Discard, s.l.r, int64(head.Packed))
	s.t.mu.Lock()
	s.t.stats.Wasted += n
	s.t.mu.Unlock()
	return true, noEOF(err)
}

// due reports whether line is the next one outstanding at s.
func (t *Transfer) due(s *source, line uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked := t.sched.peers[s.peer].asked
	return len(asked) > 0 && t.sched.items[asked[0]].line == line
}

// promised notes that p sends the first lines of the listing without being asked.
func (s *sched) promised(p peer.ID, lines uint32, now time.Time) {
	if lines == 0 {
		return
	}
	w := s.peers[p]
	kept := s.queue[:0:len(s.queue)]
	for _, i := range s.queue {
		it := &s.items[i]
		if it.line >= lines {
			kept = append(kept, i)
			continue
		}
		it.on, it.since = append(it.on, p), now
		w.asked = append(w.asked, i)
	}
	s.queue = kept
	// A client may have had some file put first meanwhile; they come in order.
	slices.SortFunc(w.asked, func(a, b int) int { return cmp.Compare(s.items[a].line, s.items[b].line) })
	w.began = now
}
