package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Where load balancers and supervisors ask. They are no paths of the module
// download protocol.
const (
	healthPath = "/healthz"
	readyPath  = "/readyz"
)

// Health is how an office is, in one sentence and in detail.
type Health struct {
	Verdict  string    `json:"verdict"` // Good, Doubt or Fault
	Sentence string    `json:"sentence"`
	Details  []Finding `json:"details,omitempty"` // what is not as it should be
}

// Health says how the office is, from what the node knows without asking anybody:
// it is cheap. Doctor asks.
func (n *Node) Health(ctx context.Context) (Health, error) {
	st, err := n.Status(ctx)
	if err != nil {
		return Health{}, err
	}
	peers, err := n.Peers(ctx)
	if err != nil {
		return Health{}, err
	}
	return healthOf(st, peers, n.History()), nil
}

func healthOf(st *Status, peers []Peer, h History) Health {
	var found []Finding
	add := func(check, verdict, advice, format string, args ...any) {
		found = append(found, Finding{check, verdict, fmt.Sprintf(format, args...), advice})
	}
	for _, a := range st.Alarms {
		add("alarm", Fault, "see docs/operating.md", "%s", a)
	}
	if st.Upkeep.Damaged > 0 {
		add("store", Fault, "meshproxy verify", "%s damaged and not served", count(st.Upkeep.Damaged, "file is", "files are"))
	}
	if st.Upkeep.Lost > 0 {
		add("store", Fault, "meshproxy verify", "the store had lost %s, and may have lost more", count(st.Upkeep.Lost, "key that was put back", "keys that were put back"))
	}
	if st.Conflicts > 0 {
		add("conflicts", Doubt, "meshproxy conflicts", "%s refused", count(st.Conflicts, "second content for a module was", "second contents for modules were"))
	}
	var away []string
	for _, p := range peers {
		if !p.Connected {
			away = append(away, p.Office)
		}
		if p.Lies > 0 {
			add("peer "+p.Office, Fault, "see its operator, or: meshproxy revoke", "office %s sent what does not check, %d times", p.Office, p.Lies)
		}
	}
	switch {
	case len(peers) > 0 && len(away) == len(peers):
		add("other offices", Fault, "check the network: meshproxy doctor", "no other office is reached")
	case len(away) > 0:
		add("other offices", Doubt, "meshproxy peers", "%s away: %s", count(len(away), "office is", "offices are"), strings.Join(away, ", "))
	}
	var now Traffic
	for _, t := range h.Minutes {
		now.add(t)
	}
	if now.Failed > 0 {
		verdict := Doubt
		if now.Failed > now.Answers() {
			verdict = Fault
		}
		add("requests", verdict, "the node's log says why", "%s failed in the last ten minutes", count(int(now.Failed), "request", "requests"))
	}
	return Health{Verdict: worst(found), Sentence: sentence(st, found), Details: found}
}

func worst(found []Finding) string {
	verdict := Good
	for _, f := range found {
		if f.Verdict == Fault {
			return Fault
		}
		verdict = Doubt
	}
	return verdict
}

func sentence(st *Status, found []Finding) string {
	if len(found) > 0 {
		var parts []string
		for _, f := range found {
			parts = append(parts, f.Detail)
		}
		text := strings.Join(parts, "; ")
		return strings.ToUpper(text[:1]) + text[1:] + "."
	}
	held := count(st.Store.Releases, "module version is", "module versions are")
	if st.Known == 0 {
		return "All is well: " + held + " held; no other office has joined yet."
	}
	return fmt.Sprintf("All is well: %s held; %s connected.", held, count(st.Connected, "other office is", "other offices are"))
}

// count writes a number with the form of the noun that goes with it.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// serveHealth answers healthPath: the process works, restarting it would not help.
// That other offices or the upstream are away is no reason to restart.
func (n *Node) serveHealth(w http.ResponseWriter, _ *http.Request) {
	plainText(w, http.StatusOK, "ok")
}

// serveReady answers readyPath: what is held can be served, and requests may be
// sent here. It turns false when the node is told to end, before it stops to
// answer, so that a load balancer can look elsewhere.
func (n *Node) serveReady(w http.ResponseWriter, _ *http.Request) {
	if n.ending.Load() {
		plainText(w, http.StatusServiceUnavailable, "shutting down")
		return
	}
	if _, _, err := n.store.Catalog("", 1); err != nil {
		plainText(w, http.StatusServiceUnavailable, "the store cannot be read: "+err.Error())
		return
	}
	plainText(w, http.StatusOK, "ready")
}

func plainText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	io.WriteString(w, text+"\n") // an error is the client's, which is gone
}
