package testnet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// maxAnswer bounds what Get reads: more than the largest module zip.
const maxAnswer = 501 << 20

// Get asks an office for a path below its URL and returns status and body.
func (o *Office) Get(path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := o.net.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, body, err
}

// MustGet is Get for an answer that must be there.
func (o *Office) MustGet(path string) []byte {
	o.net.t.Helper()
	status, body, err := o.Get(path)
	if err != nil || status != http.StatusOK {
		o.net.t.Fatalf("office %s: GET %s: status %d, %v: %s", o.Name, path, status, err, body)
	}
	return body
}

// Releases lists what the office holds.
func (o *Office) Releases() []node.Release {
	o.net.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var list []node.Release
	err := o.node.Releases(ctx, "", func(r node.Release) error {
		list = append(list, r)
		return nil
	})
	if err != nil {
		o.net.t.Fatalf("office %s: ls: %v", o.Name, err)
	}
	return list
}

// statement is what an office says of one file: its hash, as far as it has one.
type statement struct{ office, hash string }

// Check walks every running office: each file of each release that it lists can
// be had from it, hashes to what it says, is the same at every other office, and
// has the proof of the office's checksum database, if it has one for the module.
// Zips of an office whose disk was damaged are left for others to find.
func (n *Net) Check() {
	n.t.Helper()
	said := map[string]statement{}
	for _, o := range n.offices {
		if !o.Running() {
			continue
		}
		for _, r := range o.Releases() {
			for _, kind := range r.Files {
				if !o.damaged || kind != "zip" {
					n.checkFile(o, r, kind, said)
				}
				n.checkProof(o, r, kind)
			}
		}
	}
}

func (n *Net) checkFile(o *Office, r node.Release, kind string, said map[string]statement) {
	n.t.Helper()
	path, err := FilePath(r.Version, kind)
	if err != nil {
		n.t.Errorf("office %s lists %s: %v", o.Name, r.Version, err)
		return
	}
	status, body, err := o.Get("/cached-only" + path)
	if err != nil || status != http.StatusOK {
		n.t.Errorf("office %s lists %s but answers %d, %v: %.300s", o.Name, path, status, err, body)
		return
	}
	hash, err := hashFile(r, kind, body)
	if err != nil {
		n.t.Errorf("office %s: %s: %v", o.Name, path, err)
		return
	}
	if first, ok := said[path]; ok && first.hash != hash {
		n.t.Errorf("%s is %s at office %s and %s at office %s", path, first.hash, first.office, hash, o.Name)
	} else if !ok {
		said[path] = statement{o.Name, hash}
	}
}

// checkProof checks what an office shows for a file with the key of its database
// alone, as anybody could who was given it. Nobody but a member vouches for an
// .info, nor for a module that the database is not asked about.
func (n *Net) checkProof(o *Office, r node.Release, kind string) {
	n.t.Helper()
	spec := strings.Fields(o.config.SumDB)
	if kind == "info" || spec[0] == "off" || module.MatchPrefixPatterns(o.config.NoSumDB, r.Path) {
		return
	}
	key, err := note.NewVerifier(spec[0])
	if err != nil {
		n.t.Fatalf("office %s: database %s: %v", o.Name, spec[0], err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shown, err := o.node.Proof(ctx, node.ProofQuery{Module: r.Version, Kind: kind})
	if err == nil {
		_, err = node.CheckProof(shown.Text, []note.Verifier{key}, "")
	}
	if err != nil {
		n.t.Errorf("office %s holds the %s of %s without a proof: %v", o.Name, kind, r.Version, err)
	}
}

// Copies names the running offices that hold a file, without asking one for more
// than what it has.
func (n *Net) Copies(path string) (holders []string) {
	n.t.Helper()
	for _, o := range n.offices {
		if !o.Running() {
			continue
		}
		status, _, err := o.Get("/cached-only" + path)
		if err != nil {
			n.t.Fatalf("office %s: %s: %v", o.Name, path, err)
		}
		if status == http.StatusOK {
			holders = append(holders, o.Name)
		}
	}
	return holders
}

// CheckReplicas waits until each zip that any running office holds is held by so many
// of them as copies are wanted, or by all that run. It is for a mesh that is whole:
// whoever is out of reach or gone makes no copies.
func (n *Net) CheckReplicas() {
	n.t.Helper()
	last := n.lacking()
	for end := time.Now().Add(patience); last != "" && time.Now().Before(end); last = n.lacking() {
		time.Sleep(100 * time.Millisecond)
	}
	if last != "" {
		n.t.Errorf("too few copies after %v: %s", patience, last)
	}
}

// lacking names a zip with too few copies, or is "".
func (n *Net) lacking() string {
	n.t.Helper()
	running, want := 0, 0
	paths := map[string]bool{}
	for _, o := range n.offices {
		if !o.Running() {
			continue
		}
		running++
		want = max(want, o.config.Sharing.Replicas)
		for _, r := range o.Releases() {
			if path, err := FilePath(r.Version, "zip"); err == nil && slices.Contains(r.Files, "zip") {
				paths[path] = true
			}
		}
	}
	want = min(want, running)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if holders := n.Copies(path); len(holders) < want {
			return fmt.Sprintf("%s is held by %v, want %d of the %d offices", path, holders, want, running)
		}
	}
	return ""
}

// hashFile computes what the go command would, and compares it with what the
// office says of the release.
func hashFile(r node.Release, kind string, body []byte) (string, error) {
	switch kind {
	case "info":
		var info struct{ Version string }
		if err := json.Unmarshal(body, &info); err != nil || info.Version != r.Version.Version {
			return "", fmt.Errorf("info is of version %q, %v", info.Version, err)
		}
		return string(body), nil
	case "mod":
		return outside.HashMod(body)
	}
	h1, err := outside.HashZip(body)
	if err == nil && h1 != r.H1 {
		err = fmt.Errorf("zip hashes to %s, the office says %s", h1, r.H1)
	}
	return h1, err
}

// FilePath is the URL path of one file of a release: kind is info, mod or zip.
func FilePath(m module.Version, kind string) (string, error) {
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return "", err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", err
	}
	return "/" + path + "/@v/" + version + "." + kind, nil
}

// CheckOnce holds the economy of first fetches: no file of a release was asked of
// the upstream more than once, by however many offices, but for once more for each
// time that an office found another one silent, as happens on a machine that is busy.
func (n *Net) CheckOnce(upstream *outside.Server) {
	n.t.Helper()
	failures := n.failures()
	for path, times := range upstream.Repeated() {
		if !slices.ContainsFunc([]string{".info", ".mod", ".zip"}, func(s string) bool { return strings.HasSuffix(path, s) }) {
			continue
		}
		if times > 1+failures {
			n.t.Errorf("the upstream was asked %d times for %s, and %d times an office was silent", times, path, failures)
		} else {
			n.t.Logf("the upstream was asked %d times for %s, as %d times an office was silent", times, path, failures)
		}
	}
}

// failures counts how often the offices that run found another one silent.
func (n *Net) failures() (total int) {
	n.t.Helper()
	for _, o := range n.offices {
		if o.Running() {
			total += o.counter("meshproxy_exchange_peer_failures_total", nil)
		}
	}
	return total
}

// counter reads a metric of an office: the sum of all with labels that will do.
func (o *Office) counter(name string, will func(labels map[string]string) bool) (sum int) {
	o.net.t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(o.MustGet("/metrics")))
	if err != nil {
		o.net.t.Fatalf("office %s: metrics: %v", o.Name, err)
	}
	for _, m := range families[name].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if will == nil || will(labels) {
			sum += int(m.GetCounter().GetValue())
		}
	}
	return sum
}
