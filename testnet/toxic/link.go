package toxic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
)

// direction is one of a link: away from who dialled, or back to it.
type direction string

// The directions, as toxiproxy calls them.
const (
	forth direction = "upstream"
	back  direction = "downstream"
)

// link is what connections that one site opens to another pass. Its fields but the
// counts of bytes are guarded by the network's mu.
type link struct {
	proxy       *toxiproxy.Proxy
	conns       map[net.Conn]bool // of who dialled
	dialled     int64
	isCut       map[direction]bool
	forth, back atomic.Int64 // bytes
}

// link returns the link from one site to another; the caller holds mu.
func (n *Network) link(from, to *Site) (*link, error) {
	key := [2]*Site{from, to}
	if l := n.links[key]; l != nil {
		return l, nil
	}
	name := from.name + " to " + to.name
	l := &link{
		proxy: toxiproxy.NewProxy(n.server, name, "127.0.0.1:0", fmt.Sprint("127.0.0.1:", to.port)),
		conns: map[net.Conn]bool{}, isCut: map[direction]bool{},
	}
	err := errors.Join(l.setPath(forth, n.path(from, to)), l.setPath(back, n.path(to, from)))
	if err != nil {
		return nil, fmt.Errorf("link from %s: %w", name, err)
	}
	if err := l.proxy.Start(); err != nil {
		return nil, fmt.Errorf("link from %s: %w", name, err)
	}
	n.links[key] = l
	return l, nil
}

// setPath gives one direction its delay. What is on its way keeps the one it had, or
// comes at once.
func (l *link) setPath(d direction, p Path) error {
	const late = "latency"
	if l.proxy.Toxics.GetToxic(toxicName(d, late)) != nil {
		// Not updated, but replaced: toxiproxy would write to what it reads from.
		if err := l.proxy.Toxics.RemoveToxic(context.Background(), toxicName(d, late)); err != nil {
			return err
		}
	}
	if p.Latency <= 0 && p.Jitter <= 0 {
		return nil
	}
	return l.add(d, late, map[string]int64{"latency": p.Latency.Milliseconds(), "jitter": p.Jitter.Milliseconds()})
}

func (l *link) add(d direction, kind string, attributes map[string]int64) error {
	text, err := json.Marshal(map[string]any{"name": toxicName(d, kind), "type": kind, "stream": d, "attributes": attributes})
	if err != nil {
		return err
	}
	_, err = l.proxy.Toxics.AddToxicJson(strings.NewReader(string(text)))
	return err
}

func toxicName(d direction, kind string) string { return kind + " " + string(d) }

// cut lets what goes in one direction vanish, or through again; the caller holds mu.
func (l *link) cut(d direction, cut bool) error {
	if l.isCut[d] == cut {
		return nil
	}
	l.isCut[d] = cut
	const vanish = "timeout" // that never ends
	if cut {
		return l.add(d, vanish, map[string]int64{"timeout": 0})
	}
	for c := range l.conns {
		c.Close() // in the middle of a stream, something is missing
	}
	return l.proxy.Toxics.RemoveToxic(context.Background(), toxicName(d, vanish))
}

// copy copies until one end is gone, and then lets go of both.
func (l *link) copy(way passage, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	way.to = to
	_, _ = io.Copy(way, from) // how a connection ended is the offices' matter
}
