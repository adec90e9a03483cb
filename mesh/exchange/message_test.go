package exchange

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
)

// TestLengthOfAMessageTakesNoMemory has a member open claims, and say of each that a
// report of the largest size follows, which never comes.
func TestLengthOfAMessageTakesNoMemory(t *testing.T) {
	const streams = 32
	w := newWorld(t, 2)
	read := make(chan error, streams)
	w.offices[1].host.SetStreamHandler(ClaimID, func(s network.Stream) {
		l := newLink(w.offices[1].x.ctx, s, ClaimID, w.offices[1].x.limits.of(w.offices[0].id(), Client))
		var m claimReport
		read <- l.recv(&m, maxClaim)
		s.Close()
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range streams {
		s, err := w.offices[0].host.NewStream(t.Context(), w.offices[1].id(), ClaimID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(append(binary.AppendUvarint(nil, maxClaim), 0xa0)); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	for range streams {
		if err := <-read; err == nil {
			t.Error("a message of which only the length came is read")
		}
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > maxClaim {
		t.Errorf("%d lengths of %d bytes took %d bytes", streams, maxClaim, took)
	}
}
