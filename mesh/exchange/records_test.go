package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

func TestPushedRecordIsFoundAtHome(t *testing.T) {
	w := newWorld(t, 8)
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 5))
	fetcher := w.home(homeKey(r.name(verify.Zip)), 7) // the farthest
	s := fetcher.admit(r)
	results, err := fetcher.x.Push(t.Context(), []*verify.Signed{s}, func(*verify.Signed) bool { return true })
	if err != nil || len(results) != 3 {
		t.Fatalf("push: %+v, %v", results, err)
	}
	for _, res := range results {
		if res.Status != PushAccepted {
			t.Errorf("%v: status %d", res.Peer, res.Status)
		}
	}
	for _, o := range w.offices {
		if o == fetcher {
			continue
		}
		reply, err := o.x.Records(t.Context(), []verify.Name{r.name(verify.Zip), r.name(verify.Mod)}, RecordsOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f := reply.Found[0]
		if len(f.Records) != 1 || f.Records[0].Record.Digest != r.root || !slices.Contains(f.Holders, fetcher.id()) {
			t.Errorf("%s found %d records, holders %v", o.name, len(f.Records), f.Holders)
		}
		if f := reply.Found[1]; len(f.Records) != 0 || f.Answered == 0 {
			t.Errorf("%s: a go.mod that nobody has: %d records, %d answered", o.name, len(f.Records), f.Answered)
		}
	}
}

func TestPushTellsKnownRefusedAndConflict(t *testing.T) {
	w := newWorld(t, 2)
	from, to := w.offices[0], w.offices[1]
	to.refuse["example.test/refused"] = true
	mod := func(o *office, path, text string) *verify.Signed {
		n := verify.Name{Module: module.Version{Path: path, Version: "v1.0.0"}, Kind: verify.Mod}
		return o.sign(n, verify.DigestMod([]byte(text)), []byte(text), int64(len(text)))
	}
	to.admitMod(module.Version{Path: "example.test/other", Version: "v1.0.0"}, "module example.test/other // first\n")
	records := []*verify.Signed{
		mod(from, "example.test/new", "module example.test/new\n"),
		mod(from, "example.test/new", "module example.test/new\n"),
		mod(from, "example.test/refused", "module example.test/refused\n"),
		mod(from, "example.test/other", "module example.test/other // second\n"),
	}
	results, err := from.x.PushTo(t.Context(), to.id(), records, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []PushStatus{PushAccepted, PushKnown, PushRefused, PushConflict}
	for i, r := range results {
		if r.Status != want[i] {
			t.Errorf("record %d: status %d, want %d", i, r.Status, want[i])
		}
	}
	if have := results[3].Have; have == nil || have.Signer != to.id() {
		t.Errorf("conflict without the record that was first: %v", have)
	}
}

func TestManyNamesInOneQuestion(t *testing.T) {
	w := newWorld(t, 5)
	var names []verify.Name
	for i := range 400 {
		m := module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}
		if i%2 == 0 {
			w.offices[i%5].admitMod(m, "module "+m.Path+"\n")
		}
		names = append(names, verify.Name{Module: m, Kind: verify.Mod})
	}
	asker := w.join("asker", func(*Config) {})
	w.connect()
	reply, err := asker.x.Records(t.Context(), names, RecordsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range reply.Found {
		if (len(f.Records) == 1) != (i%2 == 0) {
			t.Errorf("%v: %d records", f.Name, len(f.Records))
		}
	}
}

func TestNearNamesWhatCameTogether(t *testing.T) {
	modOf := func(i int) module.Version {
		return module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}
	}
	asked := verify.Name{Module: modOf(0), Kind: verify.Mod}
	var limits []int
	w := newWorld(t, 2, func(i int, c *Config) {
		if i > 0 {
			return
		}
		c.Near = func(n verify.Name, limit int) []module.Version {
			if n != asked {
				t.Errorf("it is asked what came with %v, want %v", n, asked)
			}
			limits = append(limits, limit)
			near := []module.Version{asked.Module, modOf(1), modOf(1), {Path: "no path", Version: "v1.0.0"}, {Path: "example.test/m2", Version: "v2.0.0"}}
			for i := range 2 * limit {
				near = append(near, modOf(i))
			}
			return near
		}
	})
	w.offices[0].admitMod(asked.Module, "module example.test/m0\nrequire example.test/required v1.0.0\n")
	w.offices[0].admitMod(module.Version{Path: "example.test/required", Version: "v1.0.0"}, "module example.test/required\n")
	for _, c := range []struct {
		name string
		near bool
		want int
	}{{"asked for", true, maxNear - 6 + 1}, {"not asked for", false, 1}} {
		t.Run(c.name, func(t *testing.T) {
			reply, err := w.offices[1].x.Records(t.Context(), []verify.Name{asked}, RecordsOptions{Related: true, Near: c.near})
			if err != nil {
				t.Fatal(err)
			}
			if len(reply.Related) != c.want {
				t.Errorf("%d related, want %d: no more than there may be, none twice, none that is no module, and not the one asked for", len(reply.Related), c.want)
			}
		})
	}
	if !slices.Equal(limits, []int{maxNear}) {
		t.Errorf("limits %v, want the one of the protocol, once", limits)
	}
}

func TestRelatedNamesTheWholeGraph(t *testing.T) {
	w := newWorld(t, 2)
	const depth = 40
	for i := range depth {
		m := module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}
		text := "module " + m.Path + "\n"
		if i+1 < depth {
			text += fmt.Sprintf("require example.test/m%d v1.0.0\nrequire example.test/absent v1.0.%d\n", i+1, i)
		}
		w.offices[0].admitMod(m, text)
	}
	// Held, but nothing leads to them.
	for _, path := range []string{"example.test/absent", "example.test/other"} {
		w.offices[0].admitMod(module.Version{Path: path, Version: "v1.1.0"}, "module "+path+"\nrequire example.test/m1 v1.0.0\n")
	}
	n := verify.Name{Module: module.Version{Path: "example.test/m0", Version: "v1.0.0"}, Kind: verify.Mod}
	reply, err := w.offices[1].x.Records(t.Context(), []verify.Name{n}, RecordsOptions{Related: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Found[0].Records) != 1 || len(reply.Related) != depth-1 {
		t.Errorf("%d related, want the %d that are held, and nothing else", len(reply.Related), depth-1)
	}
	for _, m := range reply.Related {
		if _, err := w.offices[0].store.Record(verify.Name{Module: m, Kind: verify.Mod}); err != nil || m == n.Module {
			t.Errorf("%v is named: %v", m, err)
		}
	}
}

func TestNobodyReachedIsNotNobodyHasIt(t *testing.T) {
	w := newWorld(t, 3)
	n := verify.Name{Module: module.Version{Path: "example.test/m", Version: "v1.0.0"}, Kind: verify.Mod}
	reply, err := w.offices[0].x.Records(t.Context(), []verify.Name{n}, RecordsOptions{})
	if err != nil || reply.Found[0].Answered != 2 {
		t.Fatalf("all are there: %+v, %v", reply, err)
	}
	w.offices[1].stop()
	w.offices[2].stop()
	if _, err = w.offices[0].x.Records(t.Context(), []verify.Name{n}, RecordsOptions{}); !errors.Is(err, ErrUnreached) {
		t.Errorf("nobody is there: %v, want ErrUnreached", err)
	}
}

func TestStrangersAreNotAnswered(t *testing.T) {
	w := newWorld(t, 2)
	w.mu.Lock()
	delete(w.members, w.offices[1].id())
	w.mu.Unlock()
	for _, p := range protocols {
		s, err := w.offices[1].host.NewStream(t.Context(), w.offices[0].id(), p.id)
		if err == nil {
			_, err = s.Read(make([]byte, 1))
		}
		if err == nil {
			t.Errorf("%s answered a stranger", p.id)
		}
	}
}

func TestStreamsAboveTheLimitAreTurnedAway(t *testing.T) {
	w := newWorld(t, 2)
	limit := 0
	for _, p := range protocols {
		if p.id == PushID {
			limit = p.peer
		}
	}
	var streams []network.Stream
	for range limit + 5 {
		s, err := w.offices[1].host.NewStream(t.Context(), w.offices[0].id(), PushID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte{5}); err != nil { // the start of a message
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	var turned atomic.Int32
	var wg sync.WaitGroup
	for _, s := range streams {
		wg.Go(func() {
			s.SetReadDeadline(time.Now().Add(ioTimeout / 2))
			if _, err := s.Read(make([]byte, 1)); isReset(err) {
				turned.Add(1)
			}
			s.Reset()
		})
	}
	wg.Wait()
	if n := turned.Load(); n != 5 {
		t.Errorf("%d of %d streams were turned away, want 5", n, len(streams))
	}
}

func TestRecordsHonourTheirContext(t *testing.T) {
	w := newWorld(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := verify.Name{Module: module.Version{Path: "example.test/m", Version: "v1.0.0"}, Kind: verify.Mod}
	if _, err := w.offices[0].x.Records(ctx, []verify.Name{n}, RecordsOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if _, err := w.offices[0].x.Claim(ctx, n); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
