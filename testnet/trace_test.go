package testnet

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/mod/module"
	"google.golang.org/protobuf/proto"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/tracing"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// receiver is a collector as far as the protocol goes: it takes spans in.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*tracepb.Span // guarded by mu
	seen  []byte          // guarded by mu; every body, decompressed
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := r.take(req); err != nil {
			t.Error(err)
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) take(req *http.Request) error {
	if req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		return fmt.Errorf("%s of %q: want protobuf at /v1/traces", req.URL.Path, req.Header.Get("Content-Type"))
	}
	var body io.Reader = req.Body
	if req.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(req.Body)
		if err != nil {
			return err
		}
		body = z
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var m collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &m); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, data...)
	for _, res := range m.ResourceSpans {
		for _, scope := range res.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	return nil
}

// of returns the spans of a trace by "office: name", once those wanted are there.
func (r *receiver) of(t *testing.T, traceID string, wanted ...string) map[string]*tracepb.Span {
	t.Helper()
	var got map[string]*tracepb.Span
	soon(t, fmt.Sprintf("spans %q in trace %s", wanted, traceID), func() bool {
		got = r.named(traceID)
		return hasAll(got, wanted)
	})
	return got
}

func hasAll(spans map[string]*tracepb.Span, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(name string) bool { return spans[name] == nil })
}

// soon waits until something is there.
func soon(t *testing.T, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not there: %s", what)
		}
	}
}

// trace returns the spans of some trace that has all of those wanted, once there is one.
func (r *receiver) trace(t *testing.T, wanted ...string) (spans map[string]*tracepb.Span) {
	t.Helper()
	soon(t, fmt.Sprintf("a trace with %q", wanted), func() bool {
		r.mu.Lock()
		ids := map[string]bool{}
		for _, s := range r.spans {
			if spanAttr(s, "meshproxy.office")+": "+s.Name == wanted[0] {
				ids[hex.EncodeToString(s.TraceId)] = true
			}
		}
		r.mu.Unlock()
		for id := range ids {
			spans = r.named(id)
			if hasAll(spans, wanted) {
				return true
			}
		}
		return false
	})
	return spans
}

func (r *receiver) named(traceID string) map[string]*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := map[string]*tracepb.Span{}
	for _, s := range r.spans {
		if hex.EncodeToString(s.TraceId) == traceID {
			got[spanAttr(s, "meshproxy.office")+": "+s.Name] = s
		}
	}
	return got
}

func spanAttr(s *tracepb.Span, key string) string {
	for _, kv := range s.Attributes {
		if kv.Key == key {
			return kv.Value.GetStringValue()
		}
	}
	return ""
}

// tracedOffices are those of a net, whose spans all go to one receiver.
type tracedOffices struct {
	*Net
	t        *testing.T
	receiver *receiver
	upstream *outside.Server
}

// traceModules is how many modules there are to ask for.
const traceModules = 40

func newTracedOffices(t *testing.T) *tracedOffices {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20") // milliseconds
	w := new(outside.World)
	var archive strings.Builder
	for i := range traceModules {
		fmt.Fprintf(&archive, "-- example.test/m%d@v1.0.0/go.mod --\nmodule example.test/m%d\n-- example.test/m%d@v1.0.0/a.go --\npackage m\n", i, i, i)
	}
	if err := w.AddArchive(archive.String()); err != nil {
		t.Fatal(err)
	}
	up, err := outside.NewServer(w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Stop)
	o := &tracedOffices{receiver: newReceiver(t), Net: New(t), t: t, upstream: up}
	t.Cleanup(func() { // before the net looks whether anything is left
		http.DefaultClient.CloseIdleConnections()
		o.receiver.CloseClientConnections()
	})
	return o
}

// traced is a configuration with a tracer of its own, as a process would have it.
func (o *tracedOffices) traced(c node.Config) node.Config {
	tr, err := tracing.New(o.t.Context(), tracing.Options{Endpoint: o.receiver.URL, Version: "v0.0.0-test"})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			o.t.Error(err)
		}
	})
	c.Tracer = tr.Tracer()
	return c
}

// get asks an office as a client that traces, and returns the status.
func (o *tracedOffices) get(at *Office, path, parent string, change func(*http.Request)) int {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), http.MethodGet, at.URL()+path, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	req.Header.Set("Traceparent", parent)
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode
}

// clientTrace is a trace that a client began, and its span.
func clientTrace(n int) (traceID, spanID, parent string) {
	traceID, spanID = fmt.Sprintf("%032x", n+1), fmt.Sprintf("%016x", n+1)
	return traceID, spanID, "00-" + traceID + "-" + spanID + "-01"
}

// wantParents checks that each span belongs to the one it should, given by their names.
func wantParents(t *testing.T, spans map[string]*tracepb.Span, parents map[string]string) {
	t.Helper()
	for name, parent := range parents {
		if !bytes.Equal(spans[name].ParentSpanId, spans[parent].SpanId) {
			t.Errorf("%q does not belong to %q", name, parent)
		}
	}
}

func zipPath(i int) string { return fmt.Sprintf("/example.test/m%d/@v/v1.0.0.zip", i) }

func TestOneTraceFromTheClientToThePeer(t *testing.T) {
	o := newTracedOffices(t)
	a := o.Found("lima", o.traced(node.Config{Upstream: o.upstream.URL()}))
	b := o.Join("oslo", a, o.traced(node.Config{Upstream: o.upstream.URL()}))
	o.Settle()
	t.Run("first fetch", func(t *testing.T) {
		// Which office is the home of a name is a matter of chance, so it takes some
		// until one is claimed at the other office.
		for i := range traceModules {
			traceID, spanID, parent := clientTrace(i)
			if status := o.get(a, zipPath(i), parent, nil); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			spans := o.receiver.of(t, traceID, "lima: GET file", "lima: obtain", "lima: question", "lima: ask records", "oslo: answer records",
				"lima: claim", "lima: fetch", "lima: admit")
			if got := hex.EncodeToString(spans["lima: GET file"].ParentSpanId); got != spanID {
				t.Errorf("the request belongs to span %s, want the client's %s", got, spanID)
			}
			wantParents(t, spans, map[string]string{
				"lima: obtain": "lima: GET file", "lima: question": "lima: obtain", "lima: ask records": "lima: question",
				"oslo: answer records": "lima: ask records",
				"lima: claim":          "lima: obtain", "lima: fetch": "lima: obtain", "lima: admit": "lima: obtain",
			})
			if home := spanAttr(spans["lima: claim"], "meshproxy.home"); home != "oslo" {
				continue
			}
			spans = o.receiver.of(t, traceID, "lima: ask claim", "oslo: answer claim")
			wantParents(t, spans, map[string]string{"lima: ask claim": "lima: claim", "oslo: answer claim": "lima: ask claim"})
			return
		}
		t.Errorf("of %d names none was claimed at the other office", traceModules)
	})
	t.Run("from the other office", func(t *testing.T) {
		traceID, spanID, parent := clientTrace(1000)
		if status := o.get(b, zipPath(0), parent, nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		spans := o.receiver.of(t, traceID, "oslo: GET file", "oslo: obtain", "oslo: pull", "oslo: ask files", "lima: answer files")
		if got := hex.EncodeToString(spans["oslo: GET file"].ParentSpanId); got != spanID {
			t.Errorf("the request belongs to span %s, want the client's %s", got, spanID)
		}
		wantParents(t, spans, map[string]string{
			"oslo: obtain": "oslo: GET file", "oslo: pull": "oslo: obtain", "oslo: ask files": "oslo: pull", "lima: answer files": "oslo: ask files",
		})
		if from := spanAttr(spans["oslo: GET file"], "meshproxy.from"); from != "peer lima" {
			t.Errorf("it came from %q", from)
		}
	})
	t.Run("what is held", func(t *testing.T) {
		traceID, _, parent := clientTrace(1001)
		if status := o.get(b, zipPath(0), parent, nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		spans := o.receiver.of(t, traceID, "oslo: GET file")
		if source := spanAttr(spans["oslo: GET file"], "meshproxy.source"); source != "store" || len(spans) != 1 {
			t.Errorf("%d spans, source %q", len(spans), source)
		}
	})
	t.Run("a version list", func(t *testing.T) {
		traceID, _, parent := clientTrace(1002)
		if status := o.get(b, "/example.test/m1/@v/list", parent, nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		spans := o.receiver.of(t, traceID, "oslo: GET list", "oslo: refresh", "oslo: claim", "oslo: fetch")
		wantParents(t, spans, map[string]string{"oslo: refresh": "oslo: GET list", "oslo: claim": "oslo: refresh", "oslo: fetch": "oslo: refresh"})
	})
	o.unasked(t, a, b)
}

// workFrom is the first of the modules that the work without a client is about.
const workFrom = traceModules / 2

// unasked looks for the traces of what no client waits for: telling home peers,
// copies, and what is read ahead.
func (o *tracedOffices) unasked(t *testing.T, lima, oslo *Office) {
	rome := o.Join("rome", lima, o.traced(node.Config{Sharing: node.Sharing{Replicas: 2}}))
	o.Settle()
	for i := workFrom; i < traceModules; i++ { // oslo is the nearer one to some of them, and makes no copies
		if status := o.get(lima, zipPath(i), "", nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	t.Run("news", func(t *testing.T) {
		spans := o.receiver.trace(t, "lima: push", "lima: ask push")
		wantParents(t, spans, map[string]string{"lima: ask push": "lima: push"})
	})
	t.Run("a copy", func(t *testing.T) {
		spans := o.receiver.trace(t, "rome: copy", "rome: pull", "rome: ask files", "lima: answer files")
		wantParents(t, spans, map[string]string{"rome: pull": "rome: copy", "rome: ask files": "rome: pull", "lima: answer files": "rome: ask files"})
	})
	rome.Stop()
	t.Run("what a client will ask for", func(t *testing.T) {
		for i := workFrom; i < traceModules; i++ {
			m := module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}
			soon(t, "the record of a zip", func() bool {
				why, err := oslo.Node().Why(t.Context(), m)
				return err == nil && slices.ContainsFunc(why.Files, func(f node.WhyFile) bool { return f.File == "zip" })
			})
			if status := o.get(oslo, strings.TrimSuffix(zipPath(i), "zip")+"info", "", nil); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
		}
		traceID, _, parent := clientTrace(2000)
		for i := workFrom; i < traceModules; i++ {
			if status := o.get(oslo, zipPath(i), parent, nil); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
		}
		spans := o.receiver.trace(t, "oslo: ahead", "oslo: pull", "oslo: ask files", "lima: answer files")
		wantParents(t, spans, map[string]string{"oslo: pull": "oslo: ahead", "oslo: ask files": "oslo: pull", "lima: answer files": "oslo: ask files"})
		if hex.EncodeToString(spans["oslo: ahead"].TraceId) == traceID {
			t.Error("what is read ahead counts as a part of one request")
		}
	})
}

func TestNoSecretsInTraces(t *testing.T) {
	o := newTracedOffices(t)
	secret, token, err := protocol.NewToken("ci", "")
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte(token.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := o.Found("lima", o.traced(node.Config{
		Upstream: "https://planteduser:plantedpassword@127.0.0.1:1/path", Clients: node.ClientsConfig{TokenFile: tokens},
	}))
	traceID, _, parent := clientTrace(1)
	status := o.get(a, zipPath(0)+"?key=plantedquery", parent, func(r *http.Request) {
		r.SetBasicAuth("ci", secret)
		r.Header.Set("Cookie", "plantedcookie")
		r.Header.Set("Tracestate", "vendor=plantedstate")
	})
	if status != http.StatusServiceUnavailable {
		t.Fatalf("status %d, want that of an upstream that is away", status)
	}
	spans := o.receiver.of(t, traceID, "lima: GET file", "lima: obtain", "lima: fetch")
	if s := spans["lima: fetch"].Status; s.GetCode() != tracepb.Status_STATUS_CODE_ERROR || !strings.Contains(s.Message, "127.0.0.1:1") {
		t.Errorf("the span does not say what failed: %v", s)
	}
	o.receiver.mu.Lock()
	defer o.receiver.mu.Unlock()
	for _, planted := range []string{secret, "plantedpassword", "plantedquery", "plantedcookie", "plantedstate"} {
		if bytes.Contains(o.receiver.seen, []byte(planted)) {
			t.Errorf("%s was sent to the collector", planted)
		}
	}
}

// TestCollectorIsAway: an office answers all the same, and ends in time.
func TestCollectorIsAway(t *testing.T) {
	o := newTracedOffices(t)
	o.receiver.Close()
	a := o.Found("lima", o.traced(node.Config{Upstream: o.upstream.URL()}))
	for i := range 3 {
		_, _, parent := clientTrace(i)
		if status := o.get(a, zipPath(i), parent, nil); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
}
