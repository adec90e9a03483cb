package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	// maxWatchers bounds the browsers that are kept up to date at the same time.
	maxWatchers = 64
	tick        = time.Second
	// quiet is after how many ticks without news a watcher is told that all is well
	// with the connection.
	quiet = 15
	// stall is how long a watcher may take no byte.
	stall = 20 * time.Second
)

// parts are the pieces of the overview that change, by the id of their element.
var parts = []string{"health", "tiles", "offices", "traffic", "feed"}

// part replaces the content of an element of the page.
type part struct {
	ID   string `json:"id"`
	HTML string `json:"html"`
}

// events keeps a browser up to date (server-sent events): each second it gets the
// parts of the overview that have changed.
func (d *dashboard) events(w http.ResponseWriter, r *http.Request) {
	select {
	case d.watchers <- struct{}{}:
		defer func() { <-d.watchers }()
	default:
		w.Header().Set("Retry-After", "60")
		http.Error(w, fmt.Sprintf("%d browsers watch already", maxWatchers), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	sent := make(map[string]string)
	for silence := quiet; ; silence++ {
		news, err := d.news(r, sent)
		if err != nil {
			return // the browser comes back by itself
		}
		if len(news) == 0 && silence >= quiet {
			news = []byte(": still here\n\n")
		}
		if len(news) > 0 {
			silence = 0
			_ = out.SetWriteDeadline(time.Now().Add(stall)) // a recorder has none
			if _, err := w.Write(news); err != nil {
				return
			}
			if err := out.Flush(); err != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticks.C:
		}
	}
}

// news writes the events for the parts that are not as they were sent.
func (d *dashboard) news(r *http.Request, sent map[string]string) ([]byte, error) {
	v, err := d.look(r.Context())
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, id := range parts {
		html, err := d.pages.part(id, v)
		if err != nil {
			return nil, err
		}
		if sent[id] == html {
			continue
		}
		sent[id] = html
		text, err := json.Marshal(part{id, html})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "event: part\ndata: %s\n\n", text)
	}
	return b.Bytes(), nil
}
