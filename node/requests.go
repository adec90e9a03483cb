package node

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

// requestMetrics count and time the requests of clients. Their labels are words of
// this program's own: the operation, the kind of source, the status.
type requestMetrics struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	fetches *prometheus.CounterVec
}

// latencyBuckets reach from what is held in memory to a first fetch of a large
// zip, in seconds.
var latencyBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

func newRequestMetrics(r prometheus.Registerer) *requestMetrics {
	m := &requestMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshproxy_requests_total",
			Help: "Requests of clients, by what was asked for, where the answer came from, and its status; cut is an answer that broke off.",
		}, []string{"op", "source", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "meshproxy_request_seconds",
			Help:    "Time from a request to the end of its answer, by what was asked for and where the answer came from.",
			Buckets: latencyBuckets,
		}, []string{"op", "source"}),
	}
	m.fetches = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meshproxy_upstream_fetches_total",
		Help: "Files asked of the upstreams, by kind, and by what became of it: ok, absent or failed.",
	}, []string{"kind", "result"})
	r.MustRegister(m.total, m.seconds, m.fetches)
	return m
}

// fetched counts a file that was asked of the upstreams.
func (m *requestMetrics) fetched(k verify.Kind, err error) {
	result := "ok"
	switch {
	case protocol.IsNotFound(err):
		result = "absent"
	case err != nil:
		result = "failed"
	}
	m.fetches.WithLabelValues(string(k), result).Inc()
}

// note takes in an answered request.
func (m *requestMetrics) note(o protocol.Observation) {
	source, status := o.Source, strconv.Itoa(o.Status)
	if source == "" {
		source = "none"
	}
	if o.Cut {
		status = "cut"
	}
	op := o.Request.Op.String()
	m.total.WithLabelValues(op, source, status).Inc()
	m.seconds.WithLabelValues(op, source).Observe(o.Duration.Seconds())
}
