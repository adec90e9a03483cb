package exchange

import "github.com/prometheus/client_golang/prometheus"

// metrics are counters of one exchange.
type metrics struct {
	in         prometheus.Registerer
	all        []prometheus.Collector
	lies       prometheus.Counter
	turnedAway *prometheus.CounterVec
	streams    *prometheus.CounterVec
	claims     *prometheus.CounterVec
	pulled     *prometheus.CounterVec
	pushes     *prometheus.CounterVec
	repaired   prometheus.Counter
}

func newMetrics(in prometheus.Registerer, x *Exchange) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "meshproxy", Subsystem: "exchange", Name: name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "meshproxy", Subsystem: "exchange", Name: name, Help: help})
	}
	m := &metrics{
		in:         in,
		lies:       single("lies_total", "Times that a peer sent what does not check."),
		repaired:   single("repaired_total", "Zips pulled because too few offices held them."),
		streams:    counter("streams_total", "Streams opened to members, by protocol: one for each question, push, claim or release.", "protocol"),
		turnedAway: counter("turned_away_total", "Inbound streams above the limits.", "protocol"),
		claims:     counter("claims_total", "Claims of this node, by what they were told.", "outcome"),
		pulled:     counter("pulled_total", "Files asked of peers, by what became of them.", "result"),
		pushes:     counter("pushes_total", "Records pushed to this node, by what became of them.", "result"),
	}
	read := func(name, help string, f func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "meshproxy", Subsystem: "exchange", Name: name, Help: help},
			func() float64 { return float64(f()) })
	}
	m.all = []prometheus.Collector{m.lies, m.repaired, m.turnedAway, m.streams, m.claims, m.pulled, m.pushes,
		read("sent_bytes_total", "Bytes sent to members by the exchange.", x.limits.sent.Load),
		read("received_bytes_total", "Bytes received from members by the exchange.", x.limits.recd.Load),
		read("peer_failures_total", "Times that a member could not be reached, broke off or was silent for too long.", x.health.failures.Load),
	}
	if in != nil {
		in.MustRegister(m.all...)
	}
	return m
}

func (m *metrics) unregister() {
	if m.in == nil {
		return
	}
	for _, c := range m.all {
		m.in.Unregister(c)
	}
}
