package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

func TestPullFromOneHolder(t *testing.T) {
	w := newWorld(t, 2)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 300, 3<<20, 100<<10))
	w.offices[0].admit(r)
	stats, err := w.offices[1].fetch(t.Context(), r, w.offices[0].id())
	if err != nil {
		t.Fatal(err)
	}
	w.offices[1].served(r)
	t.Logf("%+v", stats)
	if stats.Files != 303 || stats.Wasted != 0 {
		t.Errorf("got %d files and %d bytes wasted, want 303 and none", stats.Files, stats.Wasted)
	}
}

// The size is one member's word in a record, which no hash covers: a false one gets
// nobody blamed who sends what the hashes say.
func TestPullWithAFalseSize(t *testing.T) {
	old, new := upgrade(t, "example.test/m")
	for name, upgraded := range map[string]bool{"the first version": false, "one told as differences": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			holder, asker := w.offices[0], w.offices[1]
			holder.admit(old)
			holder.admit(new)
			var bases []verify.Digest
			if upgraded {
				bases = []verify.Digest{old.root}
				if _, err := asker.fetch(t.Context(), old, holder.id()); err != nil {
					t.Fatal(err)
				}
			}
			lied := *new
			lied.size = 1
			if _, err := asker.fetchFrom(t.Context(), &lied, bases, holder.id()); err != nil {
				t.Fatal(err)
			}
			asker.served(new)
			if lies := asker.x.health.peers[holder.id()].lies; len(lies) > 0 {
				t.Errorf("an honest holder is named as a liar: %v", lies)
			}
		})
	}
}

func TestPullUpgradeMovesOnlyWhatChanged(t *testing.T) {
	w := newWorld(t, 2)
	files := sources(1, 200)
	old := newRelease(t, "example.test/m", "v1.0.0", files)
	files["pkg1/file1.go"] = []byte("package pkg1 // changed\n")
	new := newRelease(t, "example.test/m", "v1.0.1", files)
	w.offices[0].admit(old)
	w.offices[0].admit(new)
	if _, err := w.offices[1].fetch(t.Context(), old, w.offices[0].id()); err != nil {
		t.Fatal(err)
	}
	stats, err := w.offices[1].fetch(t.Context(), new, w.offices[0].id())
	if err != nil {
		t.Fatal(err)
	}
	w.offices[1].served(new)
	if stats.Files != 1 || stats.Bytes > 100 {
		t.Errorf("upgrade fetched %d files, %d bytes; want the one that changed", stats.Files, stats.Bytes)
	}
}

func TestLargeFileGoesOnWhereItBroke(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3, 4<<20))
	w := newWorld(t, 3)
	breaks, goesOn, asker := w.offices[0], w.offices[1], w.offices[2]
	breaks.admit(r)
	goesOn.admit(r)
	var once sync.Once
	broke := make(chan struct{})
	var gone atomic.Bool
	adversary{file: func(_ int, _ *fileHead, data []byte) ([]byte, error) {
		if gone.Load() {
			return nil, errVanish
		}
		if len(data) > largeFile {
			gone.Store(true)
			once.Do(func() { close(broke) })
			return data[:len(data)/2], io.EOF
		}
		return data, nil
	}}.takeOver(breaks)
	var offset atomic.Int64
	adversary{before: func(ctx context.Context) { await(ctx, broke) }, file: func(_ int, head *fileHead, data []byte) ([]byte, error) {
		if head.Packed > largeFile {
			offset.Store(int64(head.Packed) - int64(len(data)))
		}
		return data, nil
	}}.takeOver(goesOn)
	asker.x.health.answered(breaks.id(), time.Microsecond)
	stats, err := asker.fetch(t.Context(), r, breaks.id(), goesOn.id())
	if err != nil {
		t.Fatal(err)
	}
	asker.served(r)
	if stats.Resumed != 1 || offset.Load() < 1<<20 {
		t.Errorf("resumed %d files, at offset %d; want 1, in the middle", stats.Resumed, offset.Load())
	}
	if lies := asker.x.health.peers[breaks.id()].lies; len(lies) > 0 {
		t.Error("to vanish is no lie")
	}
}

func TestSlowPeerIsRelievedOfALargeFile(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3, 4<<20))
	w := newWorld(t, 3)
	slow, fast, asker := w.offices[0], w.offices[1], w.offices[2]
	slow.admit(r)
	fast.admit(r)
	adversary{send: func(ctx context.Context, l *link, data []byte) error {
		for part := range slices.Chunk(data, 20<<10) { // 100 KB/s: 40 s for the file
			if _, err := l.w.Write(part); err != nil {
				return err
			}
			if err := l.flush(); err != nil {
				return err
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}}.takeOver(slow)
	asker.x.health.answered(slow.id(), time.Microsecond)
	asker.x.health.delivered(fast.id(), 1<<20, 10*time.Millisecond)
	stats, err := asker.fetch(t.Context(), r, slow.id(), fast.id())
	if err != nil {
		t.Fatal(err)
	}
	asker.served(r)
	if stats.From[fast.id()] < stats.Bytes/2 {
		t.Errorf("the fast peer sent %d of %d bytes", stats.From[fast.id()], stats.Bytes)
	}
}

func TestZipIsStreamedWhileItArrives(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 100, 2<<20))
	w := newWorld(t, 2)
	w.offices[0].admit(r)
	var release sync.Once
	gate := make(chan struct{})
	adversary{hold: func(ctx context.Context, n int) {
		if n == 50 {
			await(ctx, gate)
		}
	}}.takeOver(w.offices[0])
	o := w.offices[1]
	tr := o.begin(r, w.offices[0].id())
	var zip bytes.Buffer
	out := writerFunc(func(p []byte) (int, error) {
		if zip.Len() > 0 {
			release.Do(func() { close(gate) }) // bytes of the zip are here before all files are
		}
		return zip.Write(p)
	})
	if err := o.staged.WriteTo(t.Context(), out, tr.Wait); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Done(t.Context()); err != nil {
		t.Fatal(err)
	}
	z, err := store.ScanZip(t.Context(), bytes.NewReader(zip.Bytes()), int64(zip.Len()), r.module)
	if err != nil || z.Root != r.root {
		t.Fatalf("streamed zip: %v", err)
	}
}

func TestWaitEndsWithTheTransfer(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 100))
	w := newWorld(t, 2)
	w.offices[0].admit(r)
	var gone atomic.Bool
	adversary{file: func(n int, _ *fileHead, data []byte) ([]byte, error) {
		if n == 50 || gone.Load() {
			gone.Store(true)
			return nil, io.EOF
		}
		return data, nil
	}}.takeOver(w.offices[0])
	o := w.offices[1]
	tr := o.begin(r, w.offices[0].id())
	files := tr.Listing().Files
	var err error
	for _, f := range files {
		if err = tr.Wait(t.Context(), f); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
	if held := len(files) - len(o.missing()); held < 40 {
		t.Errorf("%d files were kept, want those that had arrived", held)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestWhoWasSlowerWithTheListingIsStillAHolder has two holders asked for the listing,
// because neither sends it soon. The one that does then vanishes: the rest is with
// the other.
func TestWhoWasSlowerWithTheListingIsStillAHolder(t *testing.T) {
	w := newWorld(t, 3)
	quick, slow, asker := w.offices[0], w.offices[1], w.offices[2]
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 40))
	quick.admit(r)
	slow.admit(r)
	bothAsked, gone := make(chan struct{}), make(chan struct{})
	var asked, vanished sync.Once
	adversary{
		before: func(ctx context.Context) { await(ctx, bothAsked) },
		file: func(int, *fileHead, []byte) ([]byte, error) {
			vanished.Do(func() { close(gone) })
			return nil, errVanish
		},
	}.takeOver(quick)
	adversary{before: func(ctx context.Context) {
		asked.Do(func() { close(bothAsked) })
		await(ctx, gone)
	}}.takeOver(slow)
	asker.x.health.answered(quick.id(), time.Microsecond) // so that it is asked first
	if _, err := asker.fetch(t.Context(), r, quick.id(), slow.id()); err != nil {
		t.Fatal(err)
	}
	asker.served(r)
}
