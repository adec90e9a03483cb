package exchange

import (
	"testing"
	"time"
)

func TestNear(t *testing.T) {
	for _, tc := range []struct {
		name string
		took []time.Duration
		want bool
	}{
		{"a peer that has not answered yet", nil, false},
		{"a peer across a LAN", []time.Duration{2 * time.Millisecond}, true},
		{"a peer across a LAN that was busy", []time.Duration{3 * time.Second, time.Millisecond, time.Second}, true},
		{"a peer across a WAN", []time.Duration{40 * time.Millisecond, 20 * time.Millisecond}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHealth(time.Now)
			for _, after := range tc.took {
				h.answered("p", after)
			}
			if got := h.near("p"); got != tc.want {
				t.Errorf("near: %v, want %v", got, tc.want)
			}
		})
	}
}

// Neighbours send each file with the stream that it has.
func TestNeighboursSendNoBundles(t *testing.T) {
	r := newRelease(t, "example.test/m", "v1.0.0", smallFiles(300))
	w := newWorld(t, 2)
	holder, asker := w.offices[0], w.offices[1]
	holder.admit(r)
	asker.x.health.nearRTT = time.Hour
	asker.x.health.answered(holder.id(), time.Second)
	stats, err := asker.fetch(t.Context(), r, holder.id())
	if err != nil {
		t.Fatal(err)
	}
	asker.served(r)
	if alone := holder.streams(t, r); stats.Bytes < alone {
		t.Errorf("%d bytes came, %d are those of the streams", stats.Bytes, alone)
	}
}

// streams is how many bytes the streams of a release's files are that o has.
func (o *office) streams(t *testing.T, r *release) (total int64) {
	t.Helper()
	text, err := o.store.Listing(r.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range parsed(t, text).Files {
		raw, body, err := o.store.OpenRaw(f.Sum)
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
		total += raw.CompressedSize
	}
	return total
}
