package exchange

import (
	"context"
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

func isHeld(*verify.Signed) bool { return true }

// mods makes statements of o about n go.mod files of half a kilobyte.
func (o *office) mods(n int) (all []*verify.Signed) {
	for i := range n {
		m := module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}
		all = append(all, o.admitMod(m, fmt.Sprintf("module %s\n\n// %0500d\n", m.Path, i)))
	}
	return all
}

func TestKnownRecordsAreNotHandedOverAgain(t *testing.T) {
	w := newWorld(t, 2)
	from, to := w.offices[0], w.offices[1]
	records := from.mods(100)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3))
	records = append(records, from.admit(r))
	for round, want := range []PushStatus{PushAccepted, PushKnown} {
		before := from.x.limits.sent.Load()
		results, err := from.x.PushTo(t.Context(), to.id(), records, isHeld)
		if err != nil || len(results) != len(records) {
			t.Fatalf("%d results of %d, %v", len(results), len(records), err)
		}
		for _, r := range results {
			if r.Status != want {
				t.Errorf("round %d, %v: status %d, want %d", round, r.Name, r.Status, want)
			}
		}
		if sent := from.x.limits.sent.Load() - before; want == PushKnown && sent > 101*100 {
			t.Errorf("%d bytes were sent to tell of records that were known", sent)
		}
	}
	again := newRelease(t, "example.test/m", "v1.0.1", sources(2, 3))
	from.admit(again)
	to.admit(again)
	signed, err := from.store.Record(again.name(verify.Zip))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.x.PushTo(t.Context(), to.id(), append(records, signed), isHeld); err != nil {
		t.Fatal(err)
	}
	if holders := to.x.holders.of(again.root); len(holders) != 1 || holders[0] != from.id() {
		t.Errorf("holders of a zip that was offered: %v, want who offered it", holders)
	}
}

func TestOffersTellWhatIsNewAndWhatIsDisputed(t *testing.T) {
	w := newWorld(t, 2)
	from, to := w.offices[0], w.offices[1]
	records := from.mods(6)
	to.admitMod(records[0].Record.Name.Module, string(records[0].Record.Data))
	to.admitMod(records[1].Record.Name.Module, "module example.test/m1 // another\n")
	results, err := from.x.PushTo(t.Context(), to.id(), records, isHeld)
	if err != nil {
		t.Fatal(err)
	}
	want := map[verify.Name]PushStatus{}
	for i, s := range records {
		want[s.Record.Name] = []PushStatus{PushKnown, PushConflict, PushAccepted}[min(i, 2)]
	}
	for _, r := range results {
		if r.Status != want[r.Name] || (r.Status == PushConflict) != (r.Have != nil) {
			t.Errorf("%v: status %d (have %v), want %d", r.Name, r.Status, r.Have, want[r.Name])
		}
		delete(want, r.Name)
	}
	if len(want) > 0 {
		t.Errorf("no result of %v", want)
	}
}

// Who does not know of offers takes one for a question, and answers it.
func TestOfferToOneWhoDoesNotKnowOfThem(t *testing.T) {
	w := newWorld(t, 2)
	from, to := w.offices[0], w.offices[1]
	records := from.mods(6)
	for _, s := range records[:4] {
		to.admitMod(s.Record.Name.Module, string(s.Record.Data))
	}
	to.host.SetStreamHandler(RecordsID, func(s network.Stream) {
		to.x.start(func() {
			defer s.Close()
			ctx := to.x.ctx
			defer context.AfterFunc(ctx, func() { s.Reset() })()
			l := newLink(ctx, s, RecordsID, to.x.limits.of(from.id(), Client))
			var req recordsRequest
			if l.recv(&req, maxRequest) != nil {
				return
			}
			for i, n := range req.Brief {
				if _, err := to.x.answerName(l, from.id(), i, n, true); err != nil {
					return
				}
			}
			l.send(&recordsEntry{End: true}, maxEntry)
			l.flush()
		})
	})
	results, err := from.x.PushTo(t.Context(), to.id(), records, isHeld)
	if err != nil {
		t.Fatal(err)
	}
	count := map[PushStatus]int{}
	for _, r := range results {
		count[r.Status]++
	}
	if count[PushKnown] != 4 || count[PushAccepted] != 2 {
		t.Errorf("statuses %v, want 4 known and 2 accepted", count)
	}
}
