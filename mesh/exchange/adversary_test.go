package exchange

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/verify"
)

// adversary answers FilesID in the place of an office that holds the release.
// Each of its functions may be nil, and is honest then.
type adversary struct {
	name  string
	lies  bool // what it does is a lie that it must be named for
	alone bool // a transfer from it alone succeeds

	// before is called when a stream is opened.
	before func(context.Context)
	// opened may change the answer to filesOpen and the frame after it.
	opened func(m *filesOpened, frame []byte) []byte
	// lead may send what the listing is followed by unasked.
	lead func(ctx context.Context, o *office, l *link, listing verify.Listing) error
	// file may change the n-th file; write says whether it is sent at all, and
	// after an error the stream is left as the error says.
	file func(n int, head *fileHead, data []byte) ([]byte, error)
	// hold is called before the n-th file is looked at.
	hold func(ctx context.Context, n int)
	// send may send in its own way.
	send func(ctx context.Context, l *link, data []byte) error
}

var (
	errVanish = errors.New("reset")
	errHang   = errors.New("hang")
)

func (a adversary) takeOver(o *office) {
	ctx := o.x.ctx
	o.host.SetStreamHandler(FilesID, func(s network.Stream) {
		o.x.start(func() {
			defer context.AfterFunc(ctx, func() { s.Reset() })()
			l := newLink(ctx, s, FilesID, o.x.limits.of(o.id(), Client))
			l.patience = sendTimeout
			err := a.serve(ctx, o, l)
			if errors.Is(err, errHang) {
				<-ctx.Done()
			}
			if err != nil && err != io.EOF {
				s.Reset()
				return
			}
			s.Close()
		})
	})
}

func (a adversary) serve(ctx context.Context, o *office, l *link) error {
	if a.before != nil {
		a.before(ctx)
	}
	var open filesOpen
	if err := l.recv(&open, maxOpen); err != nil {
		return err
	}
	root, err := digestOf(open.Root)
	if err != nil {
		return err
	}
	text, err := o.store.Listing(root)
	if err != nil {
		return err
	}
	if err := a.open(l, &open, text); err != nil {
		return err
	}
	listing, err := verify.ParseListing(text)
	if err != nil {
		return err
	}
	if a.lead != nil {
		if err := a.lead(ctx, o, l, listing); err != nil {
			return err
		}
	}
	for n := 0; ; {
		var want filesWant
		if err := l.recv(&want, maxWantMsg); err != nil {
			return err
		}
		for k, line := range want.Files {
			offset := uint64(0)
			if k == 0 {
				offset = want.Offset
			}
			if err := a.sendFile(ctx, o, l, n, line, listing, offset); err != nil {
				return err
			}
			n++
		}
	}
}

func (a adversary) open(l *link, open *filesOpen, text []byte) error {
	m := filesOpened{Status: filesReady}
	var frame []byte
	if open.Listing {
		var err error
		if frame, err = packListing(text, nil); err != nil {
			return err
		}
		m.Size, m.Frame = uint64(len(text)), uint64(len(frame))
		if a.opened != nil {
			frame = a.opened(&m, frame)
		}
	}
	if err := l.send(&m, maxOpen); err != nil {
		return err
	}
	if _, err := l.w.Write(frame); err != nil {
		return err
	}
	return l.flush()
}

func (a adversary) sendFile(ctx context.Context, o *office, l *link, n int, line uint32, listing verify.Listing, offset uint64) error {
	raw, body, err := o.store.OpenRaw(listing.Files[line].Sum)
	if err != nil {
		return err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	head := fileHead{Index: line, Method: raw.Method, CRC32: raw.CRC32, Packed: uint64(raw.CompressedSize), Size: uint64(raw.Size)}
	data = data[offset:]
	if a.hold != nil {
		a.hold(ctx, n)
	}
	if a.file != nil {
		if data, err = a.file(n, &head, data); errors.Is(err, errHang) {
			l.flush()
			return err
		} else if err != nil && data == nil {
			return err
		}
	}
	if err := l.send(&head, maxHead); err != nil {
		return err
	}
	if a.send != nil {
		return a.send(ctx, l, data)
	}
	if _, err := l.w.Write(data); err != nil {
		return err
	}
	if ferr := l.flush(); ferr != nil {
		return ferr
	}
	return err
}

// await waits for a gate of a test, but not longer than the office lives: a test
// that fails before it opens the gate ends its offices.
func await(ctx context.Context, gate <-chan struct{}) {
	select {
	case <-gate:
	case <-ctx.Done():
	}
}

// bomb is a DEFLATE stream of a few bytes that inflates to many.
var bomb = func() []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	w.Write(make([]byte, 8<<20))
	w.Close()
	return b.Bytes()
}()

// listingBomb inflates to more than any listing may be.
var listingBomb = func() []byte {
	enc, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	defer enc.Close()
	return enc.EncodeAll(make([]byte, 2*verify.MaxListing), nil)
}()

func adversaries() []adversary {
	leads := func(lines uint32) func(*filesOpened, []byte) []byte {
		return func(m *filesOpened, frame []byte) []byte { m.Lead = lines; return frame }
	}
	return []adversary{
		{name: "lets another file follow the listing", lies: true, opened: leads(1),
			lead: func(ctx context.Context, o *office, l *link, listing verify.Listing) error {
				return adversary{}.sendFile(ctx, o, l, 0, 1, listing, 0)
			}},
		{name: "lets more follow the listing than may", lies: true, opened: leads(1),
			lead: func(_ context.Context, _ *office, l *link, _ verify.Listing) error {
				if err := l.send(&fileHead{Method: zip.Store, Packed: maxLead + 1, Size: maxLead + 1}, maxHead); err != nil {
					return err
				}
				return l.flush()
			}},
		{name: "lets a bad file follow the listing", lies: true, opened: leads(1),
			lead: func(ctx context.Context, o *office, l *link, listing verify.Listing) error {
				return adversary{file: func(_ int, _ *fileHead, data []byte) ([]byte, error) {
					data[0] ^= 0xff
					return data, nil
				}}.sendFile(ctx, o, l, 0, 0, listing, 0)
			}},
		{name: "lets nothing follow the listing that it announced", opened: leads(maxLeadLines)},
		{name: "announces thousands of files behind the listing", lies: true, opened: leads(maxLeadLines + 1)},
		{name: "flips a byte in each file", lies: true, file: func(_ int, _ *fileHead, data []byte) ([]byte, error) {
			if len(data) > 0 {
				data[len(data)/2] ^= 1
			}
			return data, nil
		}},
		{name: "flips a byte in the 20th file", lies: true, file: func(n int, _ *fileHead, data []byte) ([]byte, error) {
			if n >= 20 && len(data) > 0 {
				data[len(data)/2] ^= 1
			}
			return data, nil
		}},
		{name: "sends half a file and ends", file: func(n int, _ *fileHead, data []byte) ([]byte, error) {
			if n == 20 {
				return data[:len(data)/2], io.EOF
			}
			return data, nil
		}},
		{name: "announces a file without end", lies: true, file: func(_ int, head *fileHead, data []byte) ([]byte, error) {
			head.Packed, head.Size = 1<<40, 1<<40
			return data, nil
		}},
		{name: "announces a file larger than the release", lies: true, file: func(_ int, head *fileHead, data []byte) ([]byte, error) {
			head.Size = verify.MaxZip
			return data, nil
		}},
		{name: "sends another file", lies: true, file: func(_ int, head *fileHead, data []byte) ([]byte, error) {
			head.Index++
			return data, nil
		}},
		{name: "sends a bomb", lies: true, file: func(_ int, head *fileHead, _ []byte) ([]byte, error) {
			head.Method, head.Packed = 8, uint64(len(bomb))
			return bomb, nil
		}},
		{name: "vanishes", file: func(n int, _ *fileHead, data []byte) ([]byte, error) {
			if n == 30 {
				return nil, errVanish
			}
			return data, nil
		}},
		{name: "says that it has nothing after all", file: func(_ int, head *fileHead, data []byte) ([]byte, error) {
			*head = fileHead{Index: head.Index, Missing: true}
			return nil, nil
		}},
		{name: "stalls", file: func(n int, _ *fileHead, data []byte) ([]byte, error) {
			if n == 30 {
				return nil, errHang
			}
			return data, nil
		}},
		{name: "drips", send: func(ctx context.Context, l *link, data []byte) error {
			for i := range data {
				if _, err := l.w.Write(data[i : i+1]); err != nil {
					return err
				}
				if err := l.flush(); err != nil {
					return err
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}},
		{name: "sends another listing", lies: true, opened: func(m *filesOpened, _ []byte) []byte {
			text := verify.Listing{Files: []verify.File{{Name: "example.test/m@v1.0.0/go.mod"}}}.Encode()
			frame, _ := packListing(text, nil)
			m.Size, m.Frame = uint64(len(text)), uint64(len(frame))
			return frame
		}},
		{name: "sends a listing that is a bomb", lies: true, opened: func(m *filesOpened, _ []byte) []byte {
			m.Frame = uint64(len(listingBomb))
			return listingBomb
		}},
		{name: "announces a listing without end", lies: true, opened: func(m *filesOpened, frame []byte) []byte {
			m.Frame, m.Size = 1<<50, 1<<50
			return frame
		}},
		{name: "breaks off the listing", opened: func(_ *filesOpened, frame []byte) []byte {
			return frame[:len(frame)/2]
		}},
		{name: "is honest", alone: true},
	}
}

func TestAdversaryAmongHonestHolders(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 200, 2<<20))
	for _, a := range adversaries() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			w := newWorld(t, 4)
			bad, honest, other, asker := w.offices[0], w.offices[1], w.offices[2], w.offices[3]
			for _, o := range []*office{bad, honest, other} {
				o.admit(r)
			}
			a.takeOver(bad)
			asker.x.health.answered(bad.id(), time.Microsecond) // so that it is asked first
			if _, err := asker.fetch(t.Context(), r, bad.id(), honest.id(), other.id()); err != nil {
				t.Fatal(err)
			}
			asker.served(r)
			// Whether it was asked for enough to lie is up to the others' speed.
			if len(asker.x.health.peers[bad.id()].lies) > 0 && !a.lies {
				t.Error("named for a lie that it did not tell")
			}
			for _, o := range []*office{honest, other} {
				if c := asker.x.health.peers[o.id()]; c != nil && len(c.lies) > 0 {
					t.Errorf("honest %s is named as a liar", o.name)
				}
			}
		})
	}
}

func TestAdversaryAlone(t *testing.T) {
	files := sources(1, 200, 2<<20)
	r := newRelease(t, "example.test/m", "v1.0.0", files)
	for _, a := range adversaries() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			w := newWorld(t, 2)
			bad, asker := w.offices[0], w.offices[1]
			bad.admit(r)
			a.takeOver(bad)
			_, err := asker.fetch(t.Context(), r, bad.id())
			if (err == nil) != a.alone {
				t.Fatalf("got error %v, want one: %v", err, !a.alone)
			}
			if lies := len(asker.x.health.peers[bad.id()].lies); (lies > 0) != a.lies {
				t.Errorf("named for %d lies, want some: %v", lies, a.lies)
			}
			if err != nil && (asker.store.HasZip(r.root) || !(errors.Is(err, ErrUnknown) || errors.Is(err, ErrUnreached))) {
				t.Errorf("kept a zip, or an error that does not say that it is the holders': %v", err)
			}
		})
	}
}

func TestLiarIsAskedLastAndThenCutOff(t *testing.T) {
	var cut atomic.Int32
	w := newWorld(t, 3, func(i int, c *Config) {
		if i == 2 {
			c.CutOff = func(peer.ID, error) { cut.Add(1) }
		}
	})
	bad, honest, asker := w.offices[0], w.offices[1], w.offices[2]
	adversaries()[0].takeOver(bad)
	for i := range maxLies {
		r := newRelease(t, "example.test/m", "v1.0."+string(rune('0'+i)), sources(uint64(i), 10))
		bad.admit(r)
		honest.admit(r)
		if ranked := asker.x.health.rank([]peer.ID{bad.id(), honest.id()}); (ranked[0] == bad.id()) != (i == 0) {
			t.Errorf("after %d lies the order is %v", i, ranked)
		}
		if _, err := asker.fetch(t.Context(), r, bad.id()); err == nil {
			t.Fatal("a release came whole from a liar")
		}
	}
	if cut.Load() != 1 || asker.x.health.usable(bad.id()) {
		t.Errorf("cut off %d times, usable: %v", cut.Load(), asker.x.health.usable(bad.id()))
	}
}
