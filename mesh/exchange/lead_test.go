package exchange

import (
	"context"
	"io"
	"testing"

	"github.com/meshproxy/meshproxy/verify"
)

// openLead opens a stream for files of r at holder, with the listing and what follows
// it, and returns how many lines that is.
func openLead(t *testing.T, asker, holder *office, r *release, open filesOpen) (*link, uint32) {
	t.Helper()
	l, stop, err := asker.x.ask(t.Context(), holder.id(), FilesID, Client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(errNotNeeded) })
	open.Path, open.Version, open.Root, open.Listing = r.module.Path, r.module.Version, r.root[:], true
	if err := l.send(&open, maxOpen); err != nil {
		t.Fatal(err)
	}
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	var m filesOpened
	if err := l.recv(&m, maxOpen); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, l.r, int64(m.Frame)); err != nil {
		t.Fatal(err)
	}
	return l, m.Lead
}

func TestFirstFilesFollowTheListingUnasked(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 200))
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(r)
	for _, c := range []struct {
		name  string
		limit uint64
		most  uint64
		none  bool
	}{
		{name: "none wanted", none: true},
		{name: "a few", limit: 10 << 10, most: 10 << 10},
		{name: "more than may be", limit: 1 << 30, most: maxLead},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, lines := openLead(t, asker, holder, r, filesOpen{Lead: c.limit, Bundles: true})
			if c.none != (lines == 0) || int(lines) == 200 {
				t.Fatalf("%d files follow", lines)
			}
			total := uint64(0)
			for line := range lines {
				var head fileHead
				if err := l.recv(&head, maxHead); err != nil {
					t.Fatal(err)
				}
				if head.Index != line || head.Missing || len(head.Lines) > 0 {
					t.Fatalf("%+v where line %d was due", head, line)
				}
				if _, err := io.CopyN(io.Discard, l.r, int64(head.Packed)); err != nil {
					t.Fatal(err)
				}
				total += head.Packed
			}
			if total > c.most || !c.none && total < c.most/2 {
				t.Errorf("%d bytes in %d files follow, want at most %d and not much less", total, lines, c.most)
			}
		})
	}
}

// A client has the first file while nothing that was asked for has come.
func TestFirstFileComesBeforeAnyIsAskedFor(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 200))
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(r)
	silent := make(chan struct{})
	adversary{
		opened: func(m *filesOpened, frame []byte) []byte { m.Lead = 1; return frame },
		lead: func(ctx context.Context, o *office, l *link, listing verify.Listing) error {
			return adversary{}.sendFile(ctx, o, l, 0, 0, listing, 0)
		},
		hold: func(ctx context.Context, _ int) { await(ctx, silent) },
	}.takeOver(holder)
	transfer := asker.begin(r, holder.id())
	if err := transfer.Wait(t.Context(), transfer.Listing().Files[0]); err != nil {
		t.Fatal(err)
	}
	close(silent)
	stats, err := transfer.Done(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Wasted != 0 || stats.Files != len(transfer.Listing().Files) {
		t.Errorf("%+v, want each of %d files once", stats, len(transfer.Listing().Files))
	}
}

// Files that are here already come in vain then, and nobody is blamed.
func TestFilesThatAreHereFollowTheListing(t *testing.T) {
	files := sources(1, 200)
	one := newRelease(t, "example.test/m", "v1.0.0", files)
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(one)
	files["zzz.go"] = []byte("package zzz\n")
	other := newRelease(t, "example.test/n", "v1.0.0", files)
	holder.admit(other)
	if _, err := asker.fetch(t.Context(), one, holder.id()); err != nil {
		t.Fatal(err)
	}
	stats, err := asker.fetch(t.Context(), other, holder.id())
	if err != nil {
		t.Fatal(err)
	}
	asker.served(other)
	if stats.Files != 1 || stats.Wasted == 0 || stats.Wasted > maxLead {
		t.Errorf("%+v; want one file, and what followed the listing in vain", stats)
	}
	if lies := asker.x.health.peers[holder.id()].lies; len(lies) > 0 {
		t.Error("an honest holder is named as a liar")
	}
}
