package exchange

import (
	"context"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// bundle is small files that travel together: in one frame they take about a third
// less than the DEFLATE streams and the heads of each.
type bundle struct {
	head    fileHead
	content []byte // until it is packed
	frame   []byte
}

// sendBundles sends those of lines that are small, and returns the others.
func (x *Exchange) sendBundles(ctx context.Context, l *link, given *given, lines []uint32) (rest []uint32, err error) {
	if len(lines) < 2 {
		return lines, nil
	}
	bundles, rest, err := x.bundles(ctx, given, lines)
	if err != nil {
		return nil, err
	}
	for _, b := range bundles {
		if err := l.send(&b.head, maxHead); err != nil {
			return nil, err
		}
		if _, err := l.w.Write(b.frame); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// bundles packs those of lines that are small.
func (x *Exchange) bundles(ctx context.Context, given *given, lines []uint32) (all []*bundle, rest []uint32, err error) {
	if !x.pack(ctx) {
		return nil, lines, ctx.Err()
	}
	defer x.packing.Release(1)
	b := &bundle{}
	for _, line := range lines {
		content, ok := x.small(ctx, given, given.listing.Files[line])
		if !ok {
			rest = append(rest, line)
			continue
		}
		if len(b.head.Lines) == maxBundled || len(b.content)+len(content) > maxBundle {
			if err := b.pack(); err != nil {
				return nil, nil, err
			}
			all, b = append(all, b), &bundle{}
		}
		b.head.Lines, b.head.Sizes = append(b.head.Lines, line), append(b.head.Sizes, uint32(len(content)))
		b.content = append(b.content, content...)
	}
	if len(b.head.Lines) == 0 {
		return all, rest, nil
	}
	return append(all, b), rest, b.pack()
}

func (b *bundle) pack() (err error) {
	b.frame, err = packFrame(b.content, nil, zstd.SpeedDefault)
	b.head.Packed, b.content = uint64(len(b.frame)), nil
	return err
}

// small returns the content of a file that is to go in a bundle: one that is held and
// small. Of those that may go as a difference only the smallest are.
func (x *Exchange) small(ctx context.Context, given *given, f verify.File) ([]byte, bool) {
	raw, body, err := x.cfg.Backend.OpenRaw(f.Sum)
	if err != nil {
		return nil, false
	}
	defer body.Close()
	limit := int64(maxBundledRaw)
	if given.base != nil {
		if _, ok := given.base.line(f.Name); ok {
			limit = minDiffed - 1
		}
	}
	if raw.CompressedSize > limit || raw.Size > maxBundledFile || raw.Size == 0 {
		return nil, false
	}
	content, err := raw.Content(ctx, body)
	return content, err == nil
}

// receiveBundle takes files of which head says that they come together.
func (s *source) receiveBundle(head *fileHead) error {
	files, err := s.bundled(head)
	if err != nil {
		return s.lie(err)
	}
	total := int64(0)
	for _, size := range head.Sizes {
		total += int64(size)
	}
	frame, release, err := s.frame(head, max(int64(head.Packed)+2*total, minCharge*int64(len(files))/16))
	if err != nil {
		return err
	}
	parts := make([]part, 0, len(files))
	at := 0
	for n, i := range files {
		// What came of each is its share of the frame.
		p := part{file: i, from: at, to: at + int(head.Sizes[n])}
		p.wire = int64(p.to)*int64(len(frame))/total - int64(p.from)*int64(len(frame))/total
		if at = p.to; s.arrived(i, p.wire) {
			parts = append(parts, p)
		}
	}
	return s.keep(release, func() { s.unbundle(frame, total, parts) })
}

// part is a file in a bundle.
type part struct {
	file     int   // position in the schedule
	from, to int   // in the contents
	wire     int64 // bytes of the frame that it counts for
}

// bundled judges what a head says before anything is allocated for it, and returns the
// positions of the files.
func (s *source) bundled(head *fileHead) ([]int, error) {
	if len(head.Lines) != len(head.Sizes) || len(head.Lines) > maxBundled || head.Packed > maxBundle+maxBundledRaw {
		return nil, fmt.Errorf("a bundle of %d files and %d sizes in %d bytes: %w", len(head.Lines), len(head.Sizes), head.Packed, errLie)
	}
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	due := make(map[uint32]int)
	for _, i := range t.sched.peers[s.peer].asked {
		due[t.sched.items[i].line] = i
	}
	var files []int
	total := uint64(0)
	for n, line := range head.Lines {
		i, ok := due[line]
		delete(due, line)
		total += uint64(head.Sizes[n])
		switch {
		case !ok:
			return nil, fmt.Errorf("line %d came in a bundle when it was not due: %w", line, errLie)
		case head.Sizes[n] == 0 || head.Sizes[n] > maxBundledFile || total > maxBundle:
			return nil, fmt.Errorf("a bundle with a file of %d bytes, at least %d together: %w", head.Sizes[n], total, errLie)
		}
		files = append(files, i)
	}
	return files, nil
}

// unbundle has the store verify and keep what came together. When one file is not what
// it should be, none is kept.
func (s *source) unbundle(frame []byte, total int64, parts []part) {
	t := s.t
	content, err := unpackFrame(frame, nil, uint64(total))
	if err == nil && int64(len(content)) != total {
		err = fmt.Errorf("a bundle of %d bytes, announced as %d", len(content), total)
	}
	if err != nil {
		err = errors.Join(err, modzip.ErrBadFile)
	} else {
		var files []modzip.Content
		for _, p := range parts {
			files = append(files, modzip.Content{Sum: t.sched.items[p.file].file.Sum, Data: content[p.from:p.to:p.to]})
		}
		// Not the stream's context: what has arrived is kept, whatever comes next.
		err = t.x.cfg.Backend.PutContents(t.x.ctx, files)
	}
	for _, p := range parts {
		s.verdict(p.file, p.wire, err)
	}
}
