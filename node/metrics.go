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
	receivedDesc  = prometheus.NewDesc("meshproxy_peer_received_bytes_total", "Bytes of zips that came from a member.", []string{"peer", "office"}, nil)
	exchangedDesc = prometheus.NewDesc("meshproxy_peer_exchange_bytes_total", "Bytes sent to a member and received from it, files, records, questions and answers together.", []string{"peer", "office", "direction"}, nil)
	failuresDesc  = prometheus.NewDesc("meshproxy_verification_failures_total", "Files and records that were not admitted because what vouches for them says otherwise, or nothing vouches, by where they came from: upstream or peer.", []string{"source"}, nil)
	liesDesc      = prometheus.NewDesc("meshproxy_peer_lies", "Times that a member sent what does not check, within the last day.", []string{"peer", "office"}, nil)
)

var (
	releasesDesc = prometheus.NewDesc("meshproxy_store_releases", "Module versions of which at least one file is held.", nil, nil)
	zipsDesc     = prometheus.NewDesc("meshproxy_store_zips", "Zips that are held.", nil, nil)
	filesDesc    = prometheus.NewDesc("meshproxy_store_files", "Distinct files that are held.", nil, nil)
	sizeDesc     = prometheus.NewDesc("meshproxy_store_bytes", "Size of what is held: zips as they are served (logical), files and records each once (stored), space on disk (disk).", []string{"as"}, nil)
	damagedDesc  = prometheus.NewDesc("meshproxy_store_damaged_files", "Files that are damaged and not served.", nil, nil)
	readyDesc    = prometheus.NewDesc("meshproxy_ready", "1 while requests may be sent here, 0 once the node was told to end.", nil, nil)
	buildDesc    = prometheus.NewDesc("meshproxy_build_info", "Always 1; the label is the version of the program.", []string{"version"}, nil)
)

// collectStore publishes what is held.
func (m metrics) collectStore(gauge func(d *prometheus.Desc, value float64, labels ...string)) {
	st := storeStatus(m.n.cfg.Dir, m.n.store)
	gauge(releasesDesc, float64(st.Store.Releases))
	gauge(zipsDesc, float64(st.Store.Zips))
	gauge(filesDesc, float64(st.Store.Files))
	gauge(sizeDesc, float64(st.Store.Logical), "logical")
	gauge(sizeDesc, float64(st.Store.Stored), "stored")
	gauge(sizeDesc, float64(st.Store.Disk), "disk")
	gauge(damagedDesc, float64(st.Upkeep.Damaged))
	ready := 1.0
	if m.n.ending.Load() {
		ready = 0
	}
	gauge(readyDesc, ready)
	gauge(buildDesc, 1, m.n.cfg.Version)
}

// metrics is a Node as Prometheus sees it. Sources are bounded by maxSources,
// peers by the roster.
type metrics struct{ n *Node }

// Describe implements prometheus.Collector.
func (m metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{answersDesc, bytesDesc, errorsDesc, conflictsDesc, forksDesc, rejectedDesc, receivedDesc, exchangedDesc, failuresDesc, liesDesc,
		releasesDesc, zipsDesc, filesDesc, sizeDesc, damagedDesc, readyDesc, buildDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
	}
	m.collectStore(func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	})
	c := m.n.counts
	for _, s := range c.served() {
		counter(answersDesc, float64(s.Answers), s.Source)
		counter(bytesDesc, float64(s.Bytes), s.Source)
	}
	counter(errorsDesc, float64(c.errors.Load()))
	counter(conflictsDesc, float64(c.conflicts.Load()))
	counter(forksDesc, float64(c.forks.Load()))
	counter(rejectedDesc, float64(c.rejected.Load()))
	counter(failuresDesc, float64(c.unverified.upstream.Load()), fromUpstream)
	counter(failuresDesc, float64(c.unverified.peer.Load()), fromPeer)
	for _, p := range m.n.mesh.Members() {
		if p == m.n.mesh.ID() {
			continue
		}
		counter(receivedDesc, float64(c.receivedFrom(p)), p.String(), m.n.officeOf(p))
		sent, received := m.n.exchange().Traffic(p)
		counter(exchangedDesc, float64(sent), p.String(), m.n.officeOf(p), "sent")
		counter(exchangedDesc, float64(received), p.String(), m.n.officeOf(p), "received")
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
