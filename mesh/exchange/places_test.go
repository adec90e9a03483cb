package exchange

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPlaces(AnswersID)
		var leave []func()
		for range s.most {
			l, err := s.take(t.Context(), "near")
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, l)
		}
		if l, err := s.take(t.Context(), "far"); err != nil {
			t.Errorf("the places of one peer are taken with another: %v", err)
		} else {
			l()
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.take(soon, "near"); err == nil {
			t.Errorf("there are more than %d places", s.most)
		}
		got := make(chan func())
		go func() {
			l, _ := s.take(t.Context(), "near")
			got <- l
		}()
		synctest.Wait()
		leave[0]()
		(<-got)()
		for _, l := range leave[1:] {
			l()
		}
		if len(s.all) > 0 {
			t.Errorf("%d peers are remembered of which nobody wants anything", len(s.all))
		}
	})
}

// busy has an office take some time for each stream of a protocol, of which it allows as
// many as ever.
func (o *office) busy(id protocol.ID, by time.Duration) {
	for _, p := range protocols {
		if p.id != id {
			continue
		}
		g := &gate{perPeer: p.peer, total: p.total, open: map[peer.ID]int{}}
		o.host.SetStreamHandler(id, func(s network.Stream) {
			o.x.start(func() {
				o.x.handle(g, s, id, func(x *Exchange, ctx context.Context, from peer.ID, l *link) error {
					time.Sleep(by)
					return p.answer(x, ctx, from, l)
				})
			})
		})
	}
}

// TestMoreIsWantedThanAPeerAllows asks one peer for more at once than it allows: nothing
// of it is refused, and the peer is not taken for one that fails.
func TestMoreIsWantedThanAPeerAllows(t *testing.T) {
	const many = 80 // of files and of answers
	w := newWorld(t, 2)
	asker, holder := w.offices[0], w.offices[1]
	const key = "example.test/m list"
	if err := holder.store.SetMutable(key, []byte("v1.0.0\n"), time.Now()); err != nil {
		t.Fatal(err)
	}
	var releases []*release
	for i := range many {
		releases = append(releases, newRelease(t, fmt.Sprintf("example.test/m%d", i), "v1.0.0", map[string][]byte{"a.go": {byte(i)}}))
		holder.admit(releases[i])
	}
	for name, c := range map[string]struct {
		protocol protocol.ID
		ask      func(i int) error
	}{
		"answers": {AnswersID, func(int) error { _, err := asker.x.Answers(t.Context(), key, false); return err }},
		"files":   {FilesID, func(i int) error { _, err := asker.fetch(t.Context(), releases[i], holder.id()); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			holder.busy(c.protocol, 50*time.Millisecond)
			var g sync.WaitGroup
			for i := range many {
				g.Go(func() {
					if err := c.ask(i); err != nil {
						t.Error(err)
					}
				})
			}
			g.Wait()
			if n := asker.x.health.failures.Load(); n > 0 {
				t.Errorf("the peer failed %d times", n)
			}
		})
	}
}
