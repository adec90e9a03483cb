package exchange

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/meshproxy/meshproxy/verify"
)

// spansOf waits for n ended spans and returns those there are.
func spansOf(t *testing.T, r *tracetest.SpanRecorder, n int) []sdktrace.ReadOnlySpan {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for len(r.Ended()) < n {
		if time.Now().After(deadline) {
			t.Fatalf("%d spans have ended, want %d", len(r.Ended()), n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return r.Ended()
}

// traced is a world of two offices that trace, and what each recorded.
func traced(t *testing.T) (w *world, recorders []*tracetest.SpanRecorder) {
	w = newWorld(t, 2, func(_ int, c *Config) {
		r := tracetest.NewSpanRecorder()
		recorders = append(recorders, r)
		c.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r)).Tracer("test")
	})
	w.connect()
	return w, recorders
}

func TestTraceCrossesTheMesh(t *testing.T) {
	w, recorders := traced(t)
	asker, holder := w.offices[0], w.offices[1]
	r := newRelease(t, "example.test/traced", "v1.0.0", sources(1, 3))
	holder.admit(r)
	ask := func(ctx context.Context) {
		t.Helper()
		if _, err := asker.x.Records(ctx, []verify.Name{r.name(verify.Info)}, RecordsOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := asker.fetch(ctx, r, holder.id()); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("what belongs to no trace makes none", func(t *testing.T) {
		if _, err := asker.x.Records(t.Context(), []verify.Name{r.name(verify.Info)}, RecordsOptions{}); err != nil {
			t.Fatal(err)
		}
		if n := len(recorders[0].Started()) + len(recorders[1].Started()); n != 0 {
			t.Errorf("%d spans", n)
		}
	})
	root := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	ask(trace.ContextWithSpanContext(t.Context(), root))
	asked := spansOf(t, recorders[0], 2)
	answered := spansOf(t, recorders[1], 2)
	for i, word := range []string{"records", "files"} {
		client, server := asked[i], answered[i]
		if client.Name() != "ask "+word || server.Name() != "answer "+word {
			t.Errorf("spans %q and %q, want those about %s", client.Name(), server.Name(), word)
		}
		if client.Parent().SpanID() != root.SpanID() || client.SpanContext().TraceID() != root.TraceID() {
			t.Errorf("%s does not belong to what asked: %v", client.Name(), client.Parent())
		}
		if server.Parent().SpanID() != client.SpanContext().SpanID() || server.SpanContext().TraceID() != root.TraceID() {
			t.Errorf("%s does not belong to the question: %v", server.Name(), server.Parent())
		}
	}
}

func TestTraceOfAHostilePeerIsIgnored(t *testing.T) {
	w, recorders := traced(t)
	good := "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	for name, parent := range map[string]string{
		"empty":           "",
		"no trace":        "00-00000000000000000000000000000000-0123456789abcdef-01",
		"no span":         "00-0123456789abcdef0123456789abcdef-0000000000000000-01",
		"not hexadecimal": "00-0123456789abcdef0123456789abcdeg-0123456789abcdef-01",
		"capitals":        strings.ToUpper(good),
		"other version":   "ff" + good[2:],
		"too long":        good + "-" + strings.Repeat("x", maxRequest/2),
		"line breaks":     strings.Repeat("\r\n", maxTrace/2) + "x",
	} {
		t.Run(name, func(t *testing.T) {
			before := len(recorders[1].Started())
			l, stop, err := w.offices[0].x.ask(t.Context(), w.offices[1].id(), AnswersID, Client)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.send(&answersRequest{Keys: []string{"example.test/m list"}, Trace: parent}, maxRequest); err != nil {
				t.Fatal(err)
			}
			var e answersEntry
			if err = l.flush(); err == nil {
				err = l.recv(&e, maxAnswer)
			}
			stop(err)
			if err != nil || !e.End {
				t.Errorf("the question is answered with %+v, %v", e, err)
			}
			if n := len(recorders[1].Started()) - before; n != 0 {
				t.Errorf("%d spans", n)
			}
		})
	}
}

// TestTraceIsOptional: members that know of no traces understand those that do, and
// the other way round.
func TestTraceIsOptional(t *testing.T) {
	type before struct {
		Keys []string `cbor:"1,keyasint"`
	}
	old, err := encode(&before{Keys: []string{"k"}})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := encode(&answersRequest{Keys: []string{"k"}})
	if err != nil || !bytes.Equal(old, plain) {
		t.Errorf("without a trace the message is %x (%v), and was %x", plain, err, old)
	}
	traced, err := encode(&answersRequest{Keys: []string{"k"}, Trace: "t"})
	if err != nil {
		t.Fatal(err)
	}
	var b before
	if err := decode(traced, &b); err != nil || len(b.Keys) != 1 {
		t.Errorf("one that knows no traces reads %+v, %v", b, err)
	}
}
