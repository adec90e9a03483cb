package mesh

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// register publishes what the node knows of its mesh. libp2p publishes its own
// figures to the same registry.
func (m *Mesh) register() error {
	if m.cfg.Metrics == nil {
		return nil
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "meshproxy", Subsystem: "mesh", Name: name, Help: help}, f)
	}
	counter := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "meshproxy", Subsystem: "mesh", Name: name, Help: help}, f)
	}
	ways := func(want Way) func() float64 {
		return func() float64 {
			n := 0
			for _, p := range m.Peers() {
				if p.Way == want && !p.Self {
					n++
				}
			}
			return float64(n)
		}
	}
	all := []prometheus.Collector{
		gauge("members", "Members with a credential in force, this node included.", func() float64 {
			return float64(m.view.Load().Len())
		}),
		gauge("members_away", "Members without a connection.", ways(Away)),
		gauge("members_lan", "Members connected over a local network.", ways(LAN)),
		gauge("members_direct", "Members connected directly.", ways(Direct)),
		gauge("members_relayed", "Members connected through another member.", ways(Relayed)),
		gauge("statements", "Credentials, invitations and revocations in the roster.", func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			return float64(m.roster.Len())
		}),
		gauge("dht_peers", "Members in the routing table of the DHT.", func() float64 {
			return float64(m.session.Load().dht.RoutingTable().Size())
		}),
		counter("dht_announced_total", "Roots of zips handed to the DHT to be announced.", func() float64 { return float64(m.announced.Load()) }),
		counter("dht_lookups_total", "Lookups of holders in the DHT.", func() float64 { return float64(m.lookups.Load()) }),
		counter("dht_found_total", "Holders that lookups in the DHT found.", func() float64 { return float64(m.holders.Load()) }),
		gauge("strangers", "Connections of peers that have shown no credential.", func() float64 {
			m.gate.mu.Lock()
			defer m.gate.mu.Unlock()
			return float64(len(m.gate.strangers))
		}),
		counter("strangers_refused_total", "Connections and streams of strangers refused for want of room.", func() float64 {
			m.gate.mu.Lock()
			defer m.gate.mu.Unlock()
			return float64(m.gate.refused)
		}),
	}
	var errs []error
	for _, c := range all {
		errs = append(errs, m.cfg.Metrics.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("publish metrics of the mesh: %w", err)
	}
	return nil
}
