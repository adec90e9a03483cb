package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// errNoBase says that the file from which another one differs is not to be had here.
var errNoBase = errors.New("no file to tell a difference from")

// wellDiffed is from how many bytes on a dictionary is worth a better search for what
// is in it, which takes a few times as long. Beyond it the fast one loses sight of most
// of the dictionary; before it there is little to win, and the start of the better
// one alone takes most of its time.
const wellDiffed = 64 << 10

// base is a release that both sides have, whose files may be dictionaries.
type base struct {
	text  []byte
	read  bool
	lines []verify.File
}

// files are the lines of the listing, read when they are needed first.
func (b *base) files() []verify.File {
	if !b.read {
		b.read = true
		if listing, err := verify.ParseListing(b.text); err == nil { // it was checked before it was kept
			b.lines = listing.Files
		}
	}
	return b.lines
}

// inModule is the part of a name in a listing that no version changes.
func inModule(name string) string {
	_, rest, _ := strings.Cut(name, "@")
	_, rest, _ = strings.Cut(rest, "/")
	return rest
}

// line returns where the base has a file of the same name as name.
func (b *base) line(name string) (int, bool) {
	return slices.BinarySearchFunc(b.files(), inModule(name), func(f verify.File, want string) int {
		return strings.Compare(inModule(f.Name), want)
	})
}

// packWait is how long an answerer waits for its turn to pack files; after that they go
// as they are. The asker hears nothing meanwhile.
const packWait = time.Second

// pack waits for a turn to pack files: to do so takes processor time and memory. The
// caller releases packing if there is one.
func (x *Exchange) pack(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, packWait)
	defer cancel()
	return x.packing.Acquire(ctx, 1) == nil
}

// content reads a file that is held, of at most maxDiffed bytes, and checks it. The
// error is errNoBase if it is not to be had.
func (x *Exchange) content(ctx context.Context, sum verify.Digest) ([]byte, error) {
	raw, body, err := x.cfg.Backend.OpenRaw(sum)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBase, err)
	}
	defer body.Close()
	if raw.Size > maxDiffed {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", errNoBase, raw.Size, maxDiffed)
	}
	b, err := raw.Content(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBase, err)
	}
	return b, nil
}

// sendDiff sends a file as the difference from the one of the same name in base, if
// there is one and that is shorter; sent is false if not, and then nothing was sent.
func (x *Exchange) sendDiff(ctx context.Context, l *link, line uint32, f verify.File, base *base) (sent bool, err error) {
	from, ok := base.line(f.Name)
	if !ok {
		return false, nil
	}
	head, frame, err := x.diff(ctx, f.Sum, base.files()[from].Sum)
	if err != nil || frame == nil {
		return false, err
	}
	head.Index, head.From = line, uint32(from)+1
	if err := l.send(head, maxHead); err != nil {
		return false, err
	}
	_, err = l.w.Write(frame)
	return true, err
}

// diff makes the frame of a file with another one as its dictionary, and the part of
// its head that is about it; nil if that does not pay or one of them is not to be had.
func (x *Exchange) diff(ctx context.Context, sum, from verify.Digest) (*fileHead, []byte, error) {
	raw, body, err := x.cfg.Backend.OpenRaw(sum)
	if err != nil {
		return nil, nil, nil
	}
	body.Close()
	if raw.Size > maxDiffed || raw.CompressedSize < minDiffed {
		return nil, nil, nil
	}
	if !x.pack(ctx) {
		return nil, nil, ctx.Err()
	}
	defer x.packing.Release(1)
	dict, err := x.content(ctx, from)
	if err != nil || len(dict) == 0 {
		return nil, nil, ctx.Err()
	}
	content, err := x.content(ctx, sum)
	if err != nil {
		return nil, nil, ctx.Err()
	}
	level := zstd.SpeedFastest
	if len(dict) >= wellDiffed {
		level = zstd.SpeedBetterCompression
	}
	frame, err := packFrame(content, dict, level)
	if err != nil || int64(len(frame)) >= raw.CompressedSize {
		return nil, nil, err
	}
	return &fileHead{Packed: uint64(len(frame)), Size: uint64(len(content))}, frame, nil
}

// receiveDiff takes file i, of which head says that it comes as a difference.
func (s *source) receiveDiff(i int, head *fileHead) error {
	if err := s.checkDiff(head); err != nil {
		return s.lie(err)
	}
	from := s.base.files()[head.From-1]
	frame, release, err := s.frame(head, max(int64(head.Packed)+2*int64(head.Size), minCharge))
	if err != nil {
		return err
	}
	if !s.arrived(i, int64(head.Packed)) {
		release()
		return nil
	}
	return s.keep(release, func() { s.applyDiff(i, frame, from, head.Size) })
}

// frame reads the zstd frame that head announces, whose size has been judged. It counts
// for charge against maxBuffered until release.
func (s *source) frame(head *fileHead, charge int64) (frame []byte, release func(), err error) {
	buffers := s.t.buffers
	if err := buffers.Acquire(s.ctx, charge); err != nil {
		return nil, nil, context.Cause(s.ctx)
	}
	frame = make([]byte, head.Packed)
	if _, err := io.ReadFull(s.l.r, frame); err != nil {
		buffers.Release(charge)
		return nil, nil, noEOF(err)
	}
	s.count(int64(len(frame)))
	return frame, func() { buffers.Release(charge) }, nil
}

// checkDiff judges what a head says before anything is allocated for it.
func (s *source) checkDiff(head *fileHead) error {
	switch {
	case s.base == nil || uint64(head.From) > uint64(len(s.base.files())):
		return fmt.Errorf("a difference from line %d of a listing that it did not name: %w", head.From-1, errLie)
	case head.Packed > maxDiffed || head.Size > maxDiffed:
		return fmt.Errorf("a difference of %d bytes that makes %d, at most %d allowed: %w", head.Packed, head.Size, maxDiffed, errLie)
	}
	return nil
}

// applyDiff makes file i of a frame and the file that it differs from, and has the
// store verify and keep it, as a stream of this node's own. When the other file is
// not to be had any more, file i is asked for anew.
func (s *source) applyDiff(i int, frame []byte, from verify.File, size uint64) {
	t := s.t
	ctx := t.x.ctx // not the stream's: what has arrived is kept, whatever comes next
	wire := int64(len(frame))
	dict, err := t.x.content(ctx, from.Sum)
	if err != nil {
		t.x.log.Debug("a file is asked for as a whole", "file", t.sched.items[i].file.Name, "err", err)
		t.mu.Lock()
		t.sched.items[i].whole = true
		t.mu.Unlock()
		s.reject(i, wire)
		return
	}
	content, err := unpackFrame(frame, dict, size)
	if err != nil {
		err = errors.Join(err, modzip.ErrBadFile)
	} else {
		err = t.x.cfg.Backend.PutContents(ctx, []modzip.Content{{Sum: t.sched.items[i].file.Sum, Data: content}})
	}
	s.verdict(i, wire, err)
}
