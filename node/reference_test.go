package node

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var update = flag.Bool("update", false, "write the reference of metrics anew")

// described is a metric as its description has it.
type described struct{ name, help, labels string }

// descText is how the client library writes a description: it has no other way to
// be read.
var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)", (?:unit: "[^"]*", )?constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}\}$`)

// describedMetrics are those of a node that has been made, sorted by name.
func describedMetrics(t *testing.T) []described {
	t.Helper()
	n, err := New(t.Context(), Config{Dir: t.TempDir(), P2P: []string{"/ip4/127.0.0.1/tcp/0"}, NoLAN: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	descs := make(chan *prometheus.Desc, 10_000) // more than there are
	n.registry.Describe(descs)
	close(descs)
	var list []described
	for d := range descs {
		if !strings.Contains(d.String(), `fqName: "meshproxy_`) {
			continue
		}
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		list = append(list, described{m[1], m[2], strings.ReplaceAll(m[3], ",", ", ")})
	}
	slices.SortFunc(list, func(a, b described) int { return cmp.Compare(a.name, b.name) })
	return list
}

// TestMetricsReference holds docs/metrics.md to the code. To write it anew:
//
//	go test ./node -run TestMetricsReference -update
func TestMetricsReference(t *testing.T) {
	metrics := describedMetrics(t)
	var b strings.Builder
	b.WriteString(`# Metrics

Prometheus reads them at ` + "`/metrics`" + ` on the address that serves the go command. All count from the
start of the process. Beside these there are those of libp2p (` + "`libp2p_*`" + `: connections, resource
manager, identify, AutoNAT, relay), of the Go runtime (` + "`go_*`" + `) and of the process (` + "`process_*`" + `).

This page is written from the code by ` + "`go test ./node -run TestMetricsReference -update`" + `.

No label has a value that a client or a peer can invent: modules are in none of them, sources are
the upstreams of the configuration and the members of the roster.

| metric | labels | meaning |
| --- | --- | --- |
`)
	for _, m := range metrics {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m.name, m.labels, m.help)
	}
	page := filepath.Join("..", "docs", "metrics.md")
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the code says (%v): go test ./node -run TestMetricsReference -update", page, err)
	}
	t.Run("what deploy names exists", func(t *testing.T) { checkDeployed(t, metrics) })
}

// checkDeployed holds the dashboard and the alert rules in deploy to metrics that
// exist.
func checkDeployed(t *testing.T, metrics []described) {
	known := map[string]bool{}
	for _, m := range metrics {
		known[m.name] = true
	}
	files, err := filepath.Glob(filepath.Join("..", "deploy", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, file := range files {
		if !strings.Contains(file, "prometheus") && !strings.Contains(file, "grafana") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\bmeshproxy_[a-z_]+`).FindAllString(string(text), -1) {
			named++
			base := name
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !known[name] && !known[base] {
				t.Errorf("%s names %s, which does not exist", file, name)
			}
		}
	}
	if named < 10 {
		t.Errorf("only %d metrics are named in %v", named, files)
	}
}
