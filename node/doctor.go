package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// Verdicts of a Finding.
const (
	Good  = "ok"
	Doubt = "doubt" // works, but not as well as it could
	Fault = "fault"
)

// Finding is the outcome of one check of Doctor.
type Finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`
	Advice  string `json:"advice,omitempty"` // what to do about it
}

const (
	checkLimit = 10 * time.Second
	// maxSkew is how far this machine's clock may be off before members and
	// certificates are refused.
	maxSkew = 5 * time.Minute
)

// Doctor implements Control: it checks the node from end to end, in the order in
// which parts depend on each other.
func (n *Node) Doctor(ctx context.Context) ([]Finding, error) {
	checks := []func(context.Context) Finding{
		n.checkStore, n.checkServing, n.checkGo, n.checkUpstream, n.checkDatabases, n.checkPolicy, n.checkClients, n.checkStanding, n.checkMembers, n.checkReachable,
	}
	found := make([]Finding, len(checks))
	var all sync.WaitGroup
	for i, check := range checks {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkLimit)
			defer cancel()
			found[i] = check(ctx)
		})
	}
	all.Wait()
	return found, ctx.Err()
}

// Doctor implements Control.
func (o *Offline) Doctor(context.Context) ([]Finding, error) {
	return []Finding{
		checkDir(o.dir),
		{"serving", Fault, "no node runs on " + o.dir, "start it: meshproxy serve --data " + o.dir},
	}, nil
}

func (n *Node) checkStore(context.Context) Finding {
	f := checkDir(n.cfg.Dir)
	if lost := n.store.Upkeep().Lost; f.Verdict == Good && lost > 0 {
		f.Verdict, f.Detail = Doubt, fmt.Sprintf("%s, and more may be lost", count(lost, "lost key was put back", "lost keys were put back"))
		f.Advice = "read everything once: meshproxy verify; the next start repairs the store"
	}
	if damaged, err := n.store.Damaged(); f.Verdict == Good && (err != nil || len(damaged) > 0) {
		f.Verdict, f.Detail = Doubt, fmt.Sprintf("%d damaged files are not served", len(damaged))
		f.Advice = "the node tries to heal them; for their names: meshproxy verify"
		if err != nil {
			f.Verdict, f.Detail = Fault, err.Error()
		}
	}
	return f
}

// checkDir sees whether a file can be made in a data directory.
func checkDir(dir string) Finding {
	f := Finding{Check: "data", Verdict: Good, Detail: dir + " can be written"}
	probe, err := os.CreateTemp(dir, "doctor-*")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		f.Verdict, f.Detail = Fault, err.Error()
		f.Advice = "make room, or give the directory to the user that the node runs as"
	}
	return f
}

func (n *Node) checkServing(ctx context.Context) Finding {
	at := n.scheme() + reachable(n.http.Addr())
	f := Finding{Check: "serving", Verdict: Good, Detail: "the go command is answered at " + at}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+healthPath, nil)
	if err == nil {
		_, err = fetchDate(req, n.ownCertificate())
	}
	if err != nil {
		f.Verdict, f.Detail, f.Advice = Fault, err.Error(), "see the node's log"
	}
	return f
}

// ownCertificate trusts the certificate that this office shows, whatever name is in
// it: the doctor asks by address. Nil: there is none.
func (n *Node) ownCertificate() *tls.Config {
	if n.cert == nil {
		return nil
	}
	return &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		cert, err := n.cert.get()
		if err == nil && (len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, cert.Certificate[0])) {
			err = errors.New("another certificate than this office's is shown there")
		}
		return err
	}}
}

// fetchDate sends a request and returns the Date of the answer.
func fetchDate(req *http.Request, trust *tls.Config) (time.Time, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = trust
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil && err != io.EOF {
		return time.Time{}, err
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		return time.Time{}, fmt.Errorf("%s: %s", req.URL.Redacted(), resp.Status)
	}
	return http.ParseTime(resp.Header.Get("Date"))
}

func (n *Node) checkGo(context.Context) Finding {
	f := Finding{Check: "tools", Verdict: Good, Detail: "go and git are there"}
	var missing []string
	for _, tool := range []string{"go", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		f.Verdict, f.Detail = Doubt, strings.Join(missing, " and ")+" not found"
		f.Advice = "install what is missing, or modules cannot be fetched from their repositories (direct)"
		if !strings.Contains(n.upstreams.String(), "direct") && n.cfg.NoProxy == "" {
			f.Verdict, f.Advice = Good, ""
			f.Detail += ", and not needed: no module is fetched directly"
		}
	}
	return f
}

// checkUpstream asks the first proxy of the list, and compares the clocks.
func (n *Node) checkUpstream(ctx context.Context) Finding {
	f := Finding{Check: "upstream", Verdict: Good, Detail: n.upstreams.String()}
	first := strings.FieldsFunc(n.cfg.Upstream, func(r rune) bool { return r == ',' || r == '|' })
	if len(first) == 0 || first[0] == upstreamOff || first[0] == "direct" {
		return f
	}
	base := first[0]
	if !strings.Contains(base, "://") {
		base = "https://" + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return f
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base, nil)
	if err != nil {
		return f
	}
	date, err := fetchDate(req, nil)
	if err != nil {
		f.Verdict, f.Detail = Doubt, err.Error()
		f.Advice = "what other offices hold is still served; check the network and --upstream"
		return f
	}
	if skew := time.Since(date).Round(time.Second); skew.Abs() > maxSkew {
		f.Verdict, f.Detail = Fault, fmt.Sprintf("this machine's clock is off by %v", skew)
		f.Advice = "set the clock, and keep it set (NTP): credentials and certificates depend on it"
	}
	return f
}

func (n *Node) checkDatabases(ctx context.Context) Finding {
	f := Finding{Check: "checksum database", Verdict: Good, Detail: "none: only signatures of members vouch for modules"}
	var names []string
	for _, db := range n.databases {
		names = append(names, db.Name())
		if err := db.Refresh(ctx); err != nil {
			f.Verdict, f.Detail = Doubt, err.Error()
			f.Advice = "modules that no office has checked yet cannot be admitted until it answers"
			return f
		}
	}
	if len(names) > 0 {
		f.Detail = strings.Join(names, ", ") + " answers"
	}
	return f
}

func (n *Node) checkMembers(ctx context.Context) Finding {
	f := Finding{Check: "other offices", Verdict: Good}
	known, reached := n.reach()
	f.Detail = fmt.Sprintf("%d of %d are connected", reached, known)
	for _, p := range n.mesh.Connected() {
		if _, err := n.mesh.Ping(ctx, p); err != nil {
			f.Verdict, f.Detail = Doubt, fmt.Sprintf("%s does not answer: %v", n.officeOf(p), err)
			return f
		}
	}
	switch {
	case known == 0:
		f.Verdict, f.Detail = Doubt, "none is known"
		f.Advice = "add one: meshproxy invite"
	case reached == 0:
		f.Verdict = Fault
		f.Advice = "check that this machine reaches the addresses in: meshproxy peers"
	case reached < known:
		f.Verdict = Doubt
		f.Advice = "who is away: meshproxy peers"
	}
	return f
}

func (n *Node) checkReachable(context.Context) Finding {
	var addrs []string
	for _, a := range n.mesh.Addrs() {
		addrs = append(addrs, a.String())
	}
	slices.Sort(addrs)
	f := Finding{Check: "reachable", Verdict: Good, Detail: strings.Join(addrs, " ")}
	switch n.mesh.Reachability() {
	case network.ReachabilityPrivate:
		f.Verdict = Doubt
		f.Advice = "other offices cannot dial this one, it works through relays; forward the --p2p port on the router"
	case network.ReachabilityUnknown:
		f.Detail = "not known yet: " + f.Detail
	}
	if len(addrs) == 0 {
		f.Verdict, f.Detail, f.Advice = Fault, "this node listens at no address", "give it one with --p2p"
	}
	return f
}
