package exchange

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/meshproxy/meshproxy/verify"
)

// delay has an office answer a protocol as before, but only after some time.
func (o *office) delay(id protocol.ID, by time.Duration) {
	for _, p := range protocols {
		if p.id != id {
			continue
		}
		ctx := o.x.ctx
		o.host.SetStreamHandler(id, func(s network.Stream) {
			o.x.start(func() {
				defer context.AfterFunc(ctx, func() { s.Reset() })()
				select {
				case <-time.After(by):
				case <-ctx.Done():
				}
				l := newLink(ctx, s, id, o.x.limits.of(s.Conn().RemotePeer(), Client))
				if p.answer(o.x, ctx, s.Conn().RemotePeer(), l) != nil || l.flush() != nil || s.Close() != nil {
					s.Reset()
				}
			})
		})
	}
}

// TestSlowIsBetterThanNobody asks members that take longer than the budget: when
// there is no other way they are waited for.
func TestSlowIsBetterThanNobody(t *testing.T) {
	const slow = 500 * time.Millisecond
	w := newWorld(t, 3, func(_ int, c *Config) { c.Budget = time.Millisecond })
	asker, holder, other := w.offices[0], w.offices[1], w.offices[2]
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 1))
	gomod := holder.admitMod(r.module, "module example.test/m\n").Record.Name
	const key = "example.test/m list"
	if err := holder.store.SetMutable(key, []byte("v1.0.0\n"), time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, o := range []*office{holder, other} { // so that the round trip is known
		asker.x.health.answered(o.id(), time.Millisecond)
	}
	ask := func(o RecordsOptions) *Reply {
		t.Helper()
		reply, err := asker.x.Records(t.Context(), []verify.Name{gomod}, o)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	t.Run("the only one who answers knows", func(t *testing.T) {
		holder.delay(RecordsID, slow)
		holder.delay(AnswersID, slow)
		if found := ask(RecordsOptions{Patient: true}).Found[0]; len(found.Records) != 1 {
			t.Errorf("%d records, %d of %d answered", len(found.Records), found.Answered, found.Asked)
		}
		if answers, err := asker.x.Answers(t.Context(), key, true); err != nil || len(answers) != 1 {
			t.Errorf("answers: %v, %v", answers, err)
		}
	})
	t.Run("all are slow", func(t *testing.T) {
		other.delay(RecordsID, slow)
		if ask(RecordsOptions{}).Found[0].Answered == 0 {
			t.Error("nobody was waited for")
		}
	})
	t.Run("all were slow before", func(t *testing.T) {
		for _, o := range []*office{holder, other} {
			for range 4 {
				asker.x.health.late(o.id())
			}
		}
		if ask(RecordsOptions{}).Found[0].Answered == 0 {
			t.Error("nobody was waited for")
		}
	})
}
