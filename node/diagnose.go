package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Diagnostics are the parts that Client.Diagnose can fetch, by the name of a file
// for each.
var Diagnostics = map[string]string{
	"metrics.txt":    metricsPath,
	"activity.json":  "/debug/activity",
	"goroutines.txt": "/debug/pprof/goroutine?debug=2",
	"heap.pprof":     "/debug/pprof/heap",
}

// activityReport is what the node was asked lately, and how it is.
type activityReport struct {
	Health  Health  `json:"health"`
	Events  []Event `json:"events"`
	History History `json:"history"`
}

// diagnostics adds what only a running node can tell to its control socket.
func (n *Node) diagnostics(mux *http.ServeMux) {
	mux.Handle("GET "+metricsPath, promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/activity", func(w http.ResponseWriter, r *http.Request) {
		h, err := n.Health(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.Encode(activityReport{h, n.Events(0, recentEvents), n.History()}) // an error is the asker's, who is gone
	})
}

// Diagnose writes one of the parts of Diagnostics to w.
func (c *Client) Diagnose(ctx context.Context, path string, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running node: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the running node does not answer %s: %s", path, resp.Status)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}
