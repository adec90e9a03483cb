package node

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metricsPath is where Prometheus reads the office's metrics. It is no path of
// the module download protocol: a module's first element has a dot.
const metricsPath = "/metrics"

var (
	answersDesc   = prometheus.NewDesc("meshproxy_answers_total", "Answers to clients, by where they came from.", []string{"source"}, nil)
	bytesDesc     = prometheus.NewDesc("meshproxy_answer_bytes_total", "Bytes of answers to clients, by where they came from.", []string{"source"}, nil)
	errorsDesc    = prometheus.NewDesc("meshproxy_errors_total", "Requests of clients that got no answer but an error.", nil, nil)
	conflictsDesc = prometheus.NewDesc("meshproxy_conflicts_total", "Second contents for one file of a module version that were refused.", nil, nil)
	forksDesc     = prometheus.NewDesc("meshproxy_sumdb_forks_total", "Checksum databases caught with two histories.", nil, nil)
	rejectedDesc  = prometheus.NewDesc("meshproxy_sumdb_rejected_total", "Answers for checksum databases that did not check.", nil, nil)
	liesDesc      = prometheus.NewDesc("meshproxy_peer_lies", "Times that a member sent what does not check, within the last day.", []string{"peer", "office"}, nil)
)

// metrics is a Node as Prometheus sees it. Sources are bounded by maxSources,
// peers by the roster.
type metrics struct{ n *Node }

// Describe implements prometheus.Collector.
func (m metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{answersDesc, bytesDesc, errorsDesc, conflictsDesc, forksDesc, rejectedDesc, liesDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
	}
	c := m.n.counts
	for _, s := range c.served() {
		counter(answersDesc, float64(s.Answers), s.Source)
		counter(bytesDesc, float64(s.Bytes), s.Source)
	}
	counter(errorsDesc, float64(c.errors.Load()))
	counter(conflictsDesc, float64(c.conflicts.Load()))
	counter(forksDesc, float64(c.forks.Load()))
	counter(rejectedDesc, float64(c.rejected.Load()))
	for _, p := range m.n.mesh.Members() {
		if p == m.n.mesh.ID() {
			continue
		}
		lies := float64(m.n.exchange().Lies(p))
		out <- prometheus.MustNewConstMetric(liesDesc, prometheus.GaugeValue, lies, p.String(), m.n.officeOf(p))
	}
}

// newRegistry holds the metrics of one node: several may run in one process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
