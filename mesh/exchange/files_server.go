package exchange

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// wantTimeout is how long an asker may think between two requests for files.
const wantTimeout = 30 * time.Second

// given is the release that a stream is about, and how its files may travel.
type given struct {
	listing verify.Listing
	base    *base // nil: not as differences
	bundles bool
	lead    uint32 // lines that follow the listing unasked
}

// answerFiles is the answerer's side of FilesID.
func (x *Exchange) answerFiles(ctx context.Context, from peer.ID, l *link) error {
	var open filesOpen
	if err := l.recv(&open, maxOpen); err != nil {
		return err
	}
	x.joinTrace(ctx, from, l, open.Trace)
	root, err := digestOf(open.Root)
	if err != nil {
		return err
	}
	if open.Class > Background {
		return fmt.Errorf("class %d: at most %d", open.Class, Background)
	}
	l.pace = x.limits.of(from, open.Class)
	if open.Class == Client {
		defer x.limits.client()()
	}
	text, listing, ok := x.heldListing(from, module.Version{Path: open.Path, Version: open.Version}, root)
	if !ok {
		return l.send(&filesOpened{Status: filesAbsent}, maxOpen)
	}
	defer x.crowd.enter(root, from)()
	given := &given{listing: listing, bundles: open.Bundles}
	if err := x.sendOpened(l, from, &open, root, text, given); err != nil {
		return err
	}
	if err := x.sendLead(l, given); err != nil {
		return err
	}
	l.idle, l.patience = wantTimeout, sendTimeout
	for {
		if l.r.Buffered() == 0 {
			if err := l.flush(); err != nil {
				return err
			}
		}
		var want filesWant
		if err := l.recv(&want, maxWantMsg); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if want.Tell {
			if err := l.send(&fileHead{Holding: x.holding(root, from)}, maxHead); err != nil {
				return err
			}
		}
		if err := x.sendFiles(ctx, l, given, &want); err != nil {
			return err
		}
	}
}

// heldListing returns the listing of a release that p may have. The names in it
// say which module it is, so that nobody gets the files of a module that is kept
// from him by asking under another's name; and files are asked for as lines of a
// listing only, so that nobody gets one by its digest alone.
func (x *Exchange) heldListing(p peer.ID, m module.Version, root verify.Digest) ([]byte, verify.Listing, bool) {
	if module.Check(m.Path, m.Version) != nil || !x.shares(p, m.Path) {
		return nil, verify.Listing{}, false
	}
	text, err := x.cfg.Backend.Listing(root)
	if err != nil {
		return nil, verify.Listing{}, false
	}
	listing, err := verify.ParseListing(text)
	if err != nil || len(listing.Files) == 0 || !strings.HasPrefix(listing.Files[0].Name, m.Path+"@"+m.Version+"/") {
		return nil, verify.Listing{}, false
	}
	return text, listing, true
}

// sendOpened sends what is here of the release and, if it is wanted, the listing. It
// completes given: with the release whose files may be dictionaries of those that
// follow, if the asker wants that and there is one, and with what follows the listing.
func (x *Exchange) sendOpened(l *link, to peer.ID, open *filesOpen, root verify.Digest, text []byte, given *given) error {
	m := filesOpened{Status: filesPartial, Holding: x.holding(root, to)}
	if m.Holding.Whole {
		m.Status = filesReady
	}
	var dict, frame []byte
	if open.Listing || open.Diffs {
		m.Base, dict = x.commonBase(to, open.Bases)
	}
	if open.Diffs && len(dict) > 0 {
		given.base = &base{text: dict}
	}
	if open.Listing {
		var err error
		if frame, err = packListing(text, dict); err != nil {
			return err
		}
		m.Size, m.Frame = uint64(len(text)), uint64(len(frame))
		if len(m.Holding.Others) == 0 { // else these files may be had from those, too
			m.Lead = x.lead(given, open.Lead)
		}
		given.lead = m.Lead
	}
	if err := l.send(&m, maxOpen); err != nil || !open.Listing {
		return err
	}
	if _, err := l.w.Write(frame); err != nil {
		return err
	}
	return l.flush()
}

// commonBase returns the first of the asker's listings that is here too, and that p
// may know to be here.
func (x *Exchange) commonBase(p peer.ID, bases [][]byte) (root, text []byte) {
	for _, b := range bases[:min(len(bases), maxBases)] {
		if d, err := digestOf(b); err == nil {
			if text, err := x.cfg.Backend.Listing(d); err == nil && x.shares(p, listingPath(text)) {
				return b, text
			}
		}
	}
	return nil, nil
}

// sendFiles answers one request: the small ones of its files in bundles, if the asker
// takes such, then the others in their order.
func (x *Exchange) sendFiles(ctx context.Context, l *link, given *given, want *filesWant) error {
	if len(want.Files) > maxWant {
		return fmt.Errorf("%d files in a request: at most %d allowed", len(want.Files), maxWant)
	}
	for _, line := range want.Files {
		if uint64(line) >= uint64(len(given.listing.Files)) {
			return fmt.Errorf("line %d of a listing with %d", line, len(given.listing.Files))
		}
	}
	lines := want.Files
	if given.bundles && want.Offset == 0 {
		var err error
		if lines, err = x.sendBundles(ctx, l, given, lines); err != nil {
			return err
		}
	}
	offset := want.Offset
	for _, line := range lines {
		f := given.listing.Files[line]
		sent := false
		if given.base != nil && offset == 0 && !want.Whole {
			var err error
			if sent, err = x.sendDiff(ctx, l, line, f, given.base); err != nil {
				return err
			}
		}
		if !sent {
			if err := x.sendFile(l, line, f.Sum, offset); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		offset = 0
	}
	return nil
}

func (x *Exchange) sendFile(l *link, line uint32, sum verify.Digest, offset uint64) error {
	raw, body, err := x.cfg.Backend.OpenRaw(sum)
	if err != nil {
		return l.send(&fileHead{Index: line, Missing: true}, maxHead)
	}
	defer body.Close()
	if offset > uint64(raw.CompressedSize) {
		return fmt.Errorf("offset %d in a stream of %d bytes", offset, raw.CompressedSize)
	}
	head := fileHead{Index: line, Method: raw.Method, CRC32: raw.CRC32,
		Packed: uint64(raw.CompressedSize), Size: uint64(raw.Size)}
	if err := l.send(&head, maxHead); err != nil {
		return err
	}
	if err := skip(body, int64(offset)); err != nil {
		return fmt.Errorf("file %v: %w", sum, err)
	}
	if _, err := io.CopyN(l.w, body, raw.CompressedSize-int64(offset)); err != nil {
		return fmt.Errorf("file %v: %w", sum, err)
	}
	return nil
}

func skip(r io.Reader, n int64) error {
	if s, ok := r.(io.Seeker); ok {
		_, err := s.Seek(n, io.SeekCurrent)
		return err
	}
	_, err := io.CopyN(io.Discard, r, n)
	return err
}
