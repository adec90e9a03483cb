package exchange

import (
	"context"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// prefixed is a host whose protocols have a prefix, as those of a mesh have.
type prefixed struct{ host.Host }

func (p prefixed) SetStreamHandler(id protocol.ID, h network.StreamHandler) {
	p.Host.SetStreamHandler("/prefix"+id, h)
}

func (p prefixed) RemoveStreamHandler(id protocol.ID) { p.Host.RemoveStreamHandler("/prefix" + id) }

func (p prefixed) NewStream(ctx context.Context, to peer.ID, ids ...protocol.ID) (network.Stream, error) {
	return p.Host.NewStream(ctx, to, "/prefix"+ids[0])
}

func TestLinksForFilesHaveLargeBuffers(t *testing.T) {
	w := newWorld(t, 2, func(_ int, c *Config) { c.Host = prefixed{c.Host} })
	for id, want := range map[protocol.ID]int{FilesID: linkBuffer, RecordsID: smallBuffer} {
		l, stop, err := w.offices[0].x.ask(t.Context(), w.offices[1].id(), id, Client)
		if err != nil {
			t.Fatal(err)
		}
		if l.r.Size() != want || l.w.Size() != want {
			t.Errorf("%s: buffers of %d and %d bytes, want %d", id, l.r.Size(), l.w.Size(), want)
		}
		stop(nil)
	}
}
