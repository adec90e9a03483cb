package node_test

import (
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/testnet"
)

// metric reads a value that the pattern, a regular expression for the metric with its
// labels, stands in front of; -1 if there is none.
func (a *around) metric(o *testnet.Office, pattern string) float64 {
	a.t.Helper()
	m := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`).FindStringSubmatch(a.want(o, http.StatusOK, "/metrics"))
	if m == nil {
		return -1
	}
	value, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		a.t.Fatal(err)
	}
	return value
}

// atLeast waits until a metric has reached a value.
func (a *around) atLeast(o *testnet.Office, pattern string, least float64) {
	a.t.Helper()
	deadline := time.Now().Add(patience)
	for a.metric(o, pattern) < least {
		if time.Now().After(deadline) {
			a.t.Fatalf("%s: %v, want %v or more", pattern, a.metric(o, pattern), least)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestTrafficMetrics(t *testing.T) {
	a := newAround(t)
	one := a.Found("lima", a.online())
	two := a.Join("oslo", one, a.online())
	a.Settle()
	a.want(one, http.StatusOK, tagged+"v1.0.0.zip")
	a.want(two, http.StatusOK, tagged+"v1.0.0.zip")
	t.Run("bytes by peer and direction", func(t *testing.T) {
		for _, c := range []struct {
			at     *testnet.Office
			labels string
		}{
			{one, `direction="sent",office="oslo",peer="[^"]*"`},
			{two, `direction="received",office="lima",peer="[^"]*"`},
		} {
			a.atLeast(c.at, `meshproxy_peer_exchange_bytes_total\{`+c.labels+`\}`, 100)
		}
	})
	t.Run("the DHT", func(t *testing.T) {
		a.atLeast(one, "meshproxy_mesh_dht_peers", 1)
		a.atLeast(one, "meshproxy_mesh_dht_announced_total", 1)
	})
	t.Run("what does not check is counted, an outage is not", func(t *testing.T) {
		const failures = `meshproxy_verification_failures_total\{source="upstream"\}`
		if before := a.metric(one, failures); before != 0 {
			t.Fatalf("%v before anything failed", before)
		}
		a.db.Lie(module.Version{Path: "example.test/tagged", Version: "v1.1.0"}, "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
		a.want(one, http.StatusForbidden, tagged+"v1.1.0.zip")
		if after := a.metric(one, failures); after < 1 {
			t.Errorf("%v after a zip that is not what its database says", after)
		}
	})
}
