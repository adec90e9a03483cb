package upstream_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
)

const database = "sum.example.test"

// TestSumDBRoute holds by which way a checksum database is asked: the go
// command's rules.
func TestSumDBRoute(t *testing.T) {
	const ok = http.StatusOK
	for _, test := range []struct {
		name   string
		list   string // A and B stand for two proxies
		a, b   int    // their statuses to "supported"
		via    string // who answers the lookup: A, B or D, the database itself
		status int    // if nobody does
	}{
		{"first supports it", "A,B", ok, ok, "A", 0},
		{"second supports it", "A,B", 404, ok, "B", 0},
		{"gone means no", "A,B", 410, ok, "B", 0},
		{"nobody supports it", "A,B", 404, 404, "D", 0},
		{"direct", "direct", ok, ok, "D", 0},
		{"off", "off", ok, ok, "D", 0},
		{"direct after a proxy that does not", "A,direct", 404, ok, "D", 0},
		{"forbidden is final", "A,B", 403, ok, "", 403},
		{"outage is final", "A,B", 503, ok, "", 503},
		{"outage passes a bar", "A|B", 503, ok, "B", 0},
		{"outage passes a bar to direct", "A|direct", 503, ok, "D", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b, d := newWorld(t), newWorld(t), newWorld(t)
			for w, status := range map[*world]int{a: test.a, b: test.b} {
				w.handle("/sumdb/"+database+"/supported", fails(status))
			}
			a.text("/sumdb/"+database+"/lookup/example.test/!mixed@v1.0.0", "A")
			b.text("/sumdb/"+database+"/lookup/example.test/!mixed@v1.0.0", "B")
			d.text("/lookup/example.test/!mixed@v1.0.0", "D")
			u := parse(t, strings.NewReplacer("A", a.URL, "B", b.URL).Replace(test.list), upstream.Options{Databases: map[string]string{database: ""}, Transport: atItsName{d}})
			for range 3 {
				got, err := u.SumDB(t.Context(), database, "lookup/example.test/!mixed@v1.0.0")
				if string(got) != test.via || test.status != 0 && protocol.StatusOf(err) != test.status {
					t.Fatalf("%q, %v; want %q, status %d", got, err, test.via, test.status)
				}
			}
			if n := a.count("/supported"); test.a < 500 && n > 1 && test.status == 0 {
				t.Errorf("supported was asked %d times, want once", n)
			}
		})
	}
}

// atItsName has the database where its name says, at an address that does not
// exist.
type atItsName struct{ d *world }

func (a atItsName) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" && r.URL.Host == database {
		r = r.Clone(r.Context())
		r.URL.Scheme, r.URL.Host = "http", a.d.Listener.Addr().String()
	}
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
}

// TestSumDBWithURL holds that a database with a URL of its own is asked there, and
// no proxy for it: who names a place wants that one.
func TestSumDBWithURL(t *testing.T) {
	w, d := newWorld(t), newWorld(t)
	w.text("/sumdb/"+database+"/supported", "")
	w.text("/sumdb/"+database+"/latest", "proxy's")
	d.text("/db/latest", "its own")
	u := parse(t, w.URL, upstream.Options{Databases: map[string]string{database: d.URL + "/db"}})
	if got, err := u.SumDB(t.Context(), database, "latest"); string(got) != "its own" || w.count("/supported") != 0 {
		t.Errorf("%q, %v; the proxy was asked %d times", got, err, w.count("/supported"))
	}
}

// TestSumDBOutageIsForgotten has a database that comes back.
func TestSumDBOutageIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.handle("/sumdb/"+database+"/supported", fails(http.StatusServiceUnavailable))
	u := parse(t, w.URL, upstream.Options{Databases: map[string]string{database: ""}})
	if _, err := u.SumDB(t.Context(), database, "latest"); protocol.StatusOf(err) != http.StatusServiceUnavailable {
		t.Fatal(err)
	}
	w.text("/sumdb/"+database+"/supported", "")
	w.text("/sumdb/"+database+"/latest", "tree")
	if got, err := u.SumDB(t.Context(), database, "latest"); string(got) != "tree" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSumDBRefuses(t *testing.T) {
	w := newWorld(t)
	w.handle("/sumdb/"+database+"/latest", announces(upstream.MaxSumDB+1))
	w.text("/sumdb/"+database+"/supported", "")
	u := parse(t, w.URL, upstream.Options{Databases: map[string]string{database: ""}})
	for _, test := range []struct {
		name, database, sub string
		status              int
	}{
		{"other database", "sum.other.test", "latest", 404},
		{"unknown word", database, "what", 404},
		{"traversal", database, "../x", 404},
		{"malformed tile", database, "tile/x", 400},
		{"answer too large", database, "latest", 502},
		{"unknown tile", database, "tile/8/0/000", 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := u.SumDB(t.Context(), test.database, test.sub); protocol.StatusOf(err) != test.status {
				t.Errorf("status %d, %v; want %d", protocol.StatusOf(err), err, test.status)
			}
		})
	}
}
