package dashboard

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/meshproxy/meshproxy/node"
)

// fresh is how long a look at the office serves all who watch.
const fresh = time.Second

// frame is what every page shows around its own content.
type frame struct {
	Page    string // which one it is
	Office  string
	Program string // its version
	Health  node.Health
}

// frame describes the office for a page that is about something else. A page
// without it is better than none.
func (d *dashboard) frame(ctx context.Context, page string) frame {
	v, err := d.look(ctx)
	if err != nil {
		return frame{Page: page}
	}
	f := v.frame
	f.Page = page
	return f
}

// overview is the office at a glance.
type overview struct {
	frame
	Status  *node.Status
	Offices []office
	Map     officeMap
	Minutes chart
	Day     chart
	Total   node.Traffic // since the start, a day at most
	HitRate int          // of Total, in percent; -1: nothing was asked
	Events  []node.Event // newest first
}

// office is another office.
type office struct{ node.Peer }

// State is the link to it in a word.
func (o office) State() string {
	switch {
	case !o.Connected:
		return "away"
	case o.How == "":
		return "connected"
	}
	return o.How
}

// Holds is how many zips it says that it has.
func (o office) Holds() string {
	if o.Zips == nil {
		return "–"
	}
	return commas(int64(*o.Zips))
}

// look sees what the office is like. Those who ask within the same moment get the
// same answer.
func (d *dashboard) look(ctx context.Context) (*overview, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil && time.Since(d.made) < fresh {
		return d.last, nil
	}
	st, err := d.office.Status(ctx)
	if err != nil {
		return nil, err
	}
	peers, err := d.office.Peers(ctx)
	if err != nil {
		return nil, err
	}
	h, err := d.office.Health(ctx)
	if err != nil {
		return nil, err
	}
	v := &overview{
		frame:  frame{Page: "overview", Office: st.Office, Program: st.Version, Health: h},
		Status: st, Offices: offices(peers), Events: feed(d.office.Events(0, rememberedEvents)), HitRate: -1,
	}
	v.Map = drawMap(st.Office, v.Offices)
	history := d.office.History()
	v.Minutes, v.Day = drawChart(history.Minutes), drawChart(history.Day)
	for _, t := range history.Day {
		v.Total.Store.Answers += t.Store.Answers
		v.Total.Store.Bytes += t.Store.Bytes
		v.Total.Peer.Answers += t.Peer.Answers
		v.Total.Peer.Bytes += t.Peer.Bytes
		v.Total.Upstream.Answers += t.Upstream.Answers
		v.Total.Upstream.Bytes += t.Upstream.Bytes
		v.Total.Failed += t.Failed
		v.Total.Received += t.Received
	}
	if all := v.Total.Answers(); all > 0 {
		v.HitRate = int(100 * (v.Total.Store.Answers + v.Total.Peer.Answers) / all)
	}
	d.last, d.made = v, time.Now()
	return v, nil
}

// feed is the last requests for modules, newest first. What the go command asks of a
// checksum database would drown them; it is left out unless it failed.
func feed(events []node.Event) []node.Event {
	var list []node.Event
	for _, e := range slices.Backward(events) {
		if len(list) < recentEvents && (!e.SumDB || e.Failed()) {
			list = append(list, e)
		}
	}
	return list
}

// offices are the other offices by name.
func offices(peers []node.Peer) []office {
	list := make([]office, 0, len(peers))
	for _, p := range peers {
		list = append(list, office{p})
	}
	slices.SortFunc(list, func(a, b office) int {
		return cmp.Or(cmp.Compare(a.Office, b.Office), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// clientURL is the office's address as whoever reads the page reaches it: the one
// that the browser used, unless the pages have a port of their own.
func clientURL(own string, r *http.Request) string {
	u, err := url.Parse(own)
	if err != nil {
		return own
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if host == "" {
		return own
	}
	u.Host = net.JoinHostPort(host, u.Port())
	return u.String()
}
