package node

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
	"golang.org/x/mod/module"
)

// barely is a node of which only what counts is there.
func barely() *Node {
	n := &Node{counts: newCounters(), registry: newRegistry(), activity: newActivity()}
	n.requests = newRequestMetrics(n.registry)
	return n
}

func TestHandler(t *testing.T) {
	n := barely()
	n.sites = []site{{prefix: "/ui/", handler: http.RedirectHandler("/mounted", http.StatusSeeOther)}}
	var got string
	h := n.handler(t.Context(), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.URL.Path }))
	serve := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://office"+path, nil))
		return w
	}
	t.Run("other paths are left alone, unclean ones too", func(t *testing.T) {
		serve("/a//b/../@v/list")
		if got != "/a//b/../@v/list" {
			t.Errorf("the handler behind got %q", got)
		}
	})
	t.Run("the registry is served", func(t *testing.T) {
		n.requests.note(protocol.Observation{Status: 200, Source: fromStore, Duration: time.Millisecond})
		n.requests.note(protocol.Observation{Status: 200, Cut: true})
		w := serve(metricsPath)
		body, err := io.ReadAll(w.Result().Body)
		if err != nil || w.Code != http.StatusOK {
			t.Fatalf("status %d, %v", w.Code, err)
		}
		for _, want := range []string{
			`meshproxy_requests_total{op="none",source="store",status="200"} 1`,
			`meshproxy_requests_total{op="none",source="none",status="cut"} 1`,
			`meshproxy_request_seconds_count{op="none",source="store"} 1`,
		} {
			if !strings.Contains(string(body), want) {
				t.Errorf("no %s", want)
			}
		}
	})
	t.Run("what is mounted is served", func(t *testing.T) {
		if w := serve("/ui/x"); w.Header().Get("Location") != "/mounted" {
			t.Errorf("status %d, %v", w.Code, w.Header())
		}
	})
	t.Run("healthy, and not ready while it ends", func(t *testing.T) {
		n.ending.Store(true)
		if w := serve(healthPath); w.Code != http.StatusOK || w.Body.String() != "ok\n" {
			t.Errorf("%s: status %d: %s", healthPath, w.Code, w.Body)
		}
		if w := serve(readyPath); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d: %s", readyPath, w.Code, w.Body)
		}
	})
}

func TestActivity(t *testing.T) {
	a := newActivity()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a.now = func() time.Time { return now }
	name := verify.Name{Module: module.Version{Path: "example.test/m", Version: "v1.0.0"}, Kind: verify.Zip}
	ask := func(source string, status int, bytes int64) {
		a.note(protocol.Observation{Request: protocol.Request{Op: protocol.OpFile, Name: name}, Source: source, From: source + " x", Status: status, Bytes: bytes})
	}
	ask(fromUpstream, 200, 100)
	ask(fromStore, 200, 30)
	now = now.Add(shortStep)
	ask(fromPeer, 200, 7)
	ask("", 502, 50)
	ask("", 404, 20)

	t.Run("events come in order, and only new ones", func(t *testing.T) {
		all := a.since(0, 100)
		if len(all) != 5 || all[0].Source != fromUpstream || all[4].Status != 404 {
			t.Fatalf("%+v", all)
		}
		if all[0].What != name.String() || all[0].From != "upstream x" {
			t.Errorf("%+v", all[0])
		}
		if rest := a.since(all[3].Seq, 100); len(rest) != 1 || rest[0].Seq != all[4].Seq {
			t.Errorf("after %d: %+v", all[3].Seq, rest)
		}
		if last := a.since(0, 2); len(last) != 2 || last[1].Seq != all[4].Seq {
			t.Errorf("the last two: %+v", last)
		}
		if none := a.since(1000, 100); len(none) != 0 {
			t.Errorf("after the future: %+v", none)
		}
	})
	t.Run("traffic stands where it was", func(t *testing.T) {
		h := a.history()
		if len(h.Minutes) != shortSteps || len(h.Day) != longSteps {
			t.Fatalf("%d and %d steps", len(h.Minutes), len(h.Day))
		}
		last, before := h.Minutes[shortSteps-1], h.Minutes[shortSteps-2]
		if last.Peer != (Tally{1, 7}) || last.Failed != 1 || before.Upstream != (Tally{1, 100}) || before.Saved() != 30 {
			t.Errorf("now %+v, before %+v", last, before)
		}
		if day := h.Day[longSteps-1]; day.Answers() != 3 || day.Saved() != 37 {
			t.Errorf("the day: %+v", day)
		}
	})
	t.Run("what is too old is forgotten", func(t *testing.T) {
		now = now.Add(shortSteps * shortStep)
		for _, s := range a.history().Minutes {
			if s.Answers() != 0 {
				t.Errorf("at %v: %+v", s.Start, s)
			}
		}
		for range 2 * recentEvents {
			ask(fromStore, 200, 1)
		}
		if all := a.since(0, 1<<30); len(all) != recentEvents || all[recentEvents-1].Seq != 5+2*recentEvents {
			t.Errorf("%d events", len(all))
		}
	})
}

func TestHealth(t *testing.T) {
	for name, c := range map[string]struct {
		st      Status
		peers   []Peer
		traffic Traffic
		verdict string
		says    string
	}{
		"alone":            {Status{Store: Holdings{Releases: 1}}, nil, Traffic{}, Good, "All is well: 1 module version is held; no other office has joined yet."},
		"all connected":    {Status{Known: 2, Connected: 2}, []Peer{{Connected: true}, {Connected: true}}, Traffic{}, Good, "2 other offices are connected"},
		"one away":         {Status{Known: 2}, []Peer{{Office: "lima"}, {Connected: true}}, Traffic{}, Doubt, "1 office is away: lima."},
		"cut off":          {Status{Known: 1}, []Peer{{Office: "lima"}}, Traffic{}, Fault, "No other office is reached."},
		"a liar":           {Status{Known: 1}, []Peer{{Office: "lima", Connected: true, Lies: 2}}, Traffic{}, Fault, "lima sent what does not check"},
		"an alarm":         {Status{Alarms: []string{"the database signed two histories"}}, nil, Traffic{}, Fault, "The database signed two histories."},
		"damage":           {Status{Upkeep: Upkeep{Damaged: 3}}, nil, Traffic{}, Fault, "3 files are damaged"},
		"lost keys":        {Status{Upkeep: Upkeep{Lost: 1}}, nil, Traffic{}, Fault, "1 key that was put back"},
		"a conflict":       {Status{Conflicts: 1}, nil, Traffic{}, Doubt, "1 second content"},
		"a few failures":   {Status{}, nil, Traffic{Store: Tally{Answers: 9}, Failed: 1}, Doubt, "1 request failed"},
		"nothing but them": {Status{}, nil, Traffic{Failed: 5}, Fault, "5 requests failed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := healthOf(&c.st, c.peers, History{Minutes: []Traffic{c.traffic}})
			if h.Verdict != c.verdict || !strings.Contains(h.Sentence, c.says) {
				t.Errorf("%s: %s", h.Verdict, h.Sentence)
			}
		})
	}
}
