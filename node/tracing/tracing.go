// Package tracing sends the spans of an office to a collector of OpenTelemetry, by
// OTLP over HTTP with protobuf.
//
// It promises that a collector that is slow, away or hostile costs the office spans
// and nothing else: spans wait in a queue of limited length and what finds no room is
// dropped, sending has time limits, and failures are logged once a minute. Nothing of
// it runs unless New is called.
//
// What else can be said of how spans are sampled, queued and sent is said by the
// variables of the OpenTelemetry specification (OTEL_TRACES_SAMPLER, OTEL_BSP_*,
// OTEL_EXPORTER_OTLP_HEADERS and so on), which the SDK reads.
package tracing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

const (
	// scope is the name under which spans are known to be of this program.
	scope = "github.com/meshproxy/meshproxy"
	// maxValue bounds each text in a span, in bytes.
	maxValue = 2 << 10
	// logPeriod is how often it is logged that spans are lost.
	logPeriod = time.Minute
	// closeTime is how long the last spans may take.
	closeTime = 5 * time.Second
)

// Options say where spans go. The zero value has the standard variables say so.
type Options struct {
	// Endpoint is the URL of the collector, to which v1/traces is added; empty: that
	// of OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT.
	Endpoint string
	Version  string       // of this program
	Log      *slog.Logger // nil: slog.Default()
}

// Tracing makes spans and sends them, until Close.
type Tracing struct{ provider *sdktrace.TracerProvider }

// ErrEndpoint says that a collector's URL is none.
var ErrEndpoint = errors.New("bad collector")

// CheckEndpoint reports whether a text can be Options.Endpoint.
func CheckEndpoint(text string) error {
	_, err := parseEndpoint(text)
	return err
}

func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: want a URL like http://localhost:4318", ErrEndpoint) // the cause repeats the text, secrets included
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%w %.200q: want a URL like http://localhost:4318", ErrEndpoint, u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("%w %.200q: credentials belong into OTEL_EXPORTER_OTLP_HEADERS", ErrEndpoint, u.Redacted())
	}
	return u, nil
}

// New begins to send. It connects to nothing yet.
func New(ctx context.Context, o Options) (*Tracing, error) {
	var opts []otlptracehttp.Option
	if o.Endpoint != "" {
		u, err := parseEndpoint(o.Endpoint)
		if err != nil {
			return nil, err
		}
		opts = append(opts, otlptracehttp.WithEndpointURL(u.JoinPath("v1", "traces").String()))
	}
	exporter, err := otlptracehttp.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("send traces: %w", err)
	}
	// What the environment says comes last, and counts.
	of, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("meshproxy"), semconv.ServiceVersion(o.Version)), resource.WithFromEnv())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("send traces: OTEL_RESOURCE_ATTRIBUTES: %w", err), exporter.Shutdown(ctx))
	}
	limits := sdktrace.NewSpanLimits()
	if limits.AttributeValueLengthLimit < 0 { // none was set
		limits.AttributeValueLengthLimit = maxValue
	}
	return &Tracing{sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&sender{SpanExporter: exporter, log: cmp.Or(o.Log, slog.Default()), often: rate.Sometimes{Interval: logPeriod}}),
		sdktrace.WithResource(of), sdktrace.WithRawSpanLimits(limits),
	)}, nil
}

// Tracer makes spans.
func (t *Tracing) Tracer() trace.Tracer { return t.provider.Tracer(scope) }

// Close sends what is left, for some seconds at most, and ends.
func (t *Tracing) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil // late spans are lost, like others that the collector does not take
}

// sender logs, now and then, that spans are lost.
type sender struct {
	sdktrace.SpanExporter
	log   *slog.Logger
	often rate.Sometimes
}

// ExportSpans implements sdktrace.SpanExporter.
func (s *sender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := s.SpanExporter.ExportSpans(ctx, spans); err != nil {
		s.often.Do(func() {
			s.log.Warn("traces are lost: the collector does not take them", "spans", len(spans), "err", err)
		})
	}
	return nil // the SDK would print it
}
