package protocol

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
)

// traceHeader is what a client that traces sends, by W3C trace context.
const traceHeader = "Traceparent"

// maxTraceparent is the length of a traceparent of version 00, in bytes; what is
// longer is ignored, and so is trace state, which has no bound worth having.
const maxTraceparent = 55

// traced begins the span of a request. The request returned belongs to it, and the
// func ends it when the request has been answered, and tells Observe.
func (h *handler) traced(r *http.Request) (*http.Request, func(Observation)) {
	ctx := r.Context()
	if v := r.Header[traceHeader]; len(v) == 1 && len(v[0]) == maxTraceparent {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": v[0]})
	}
	ctx, span := h.o.Tracer.Start(ctx, methodOf(r), trace.WithSpanKind(trace.SpanKindServer))
	return r.WithContext(ctx), func(o Observation) {
		h.describe(span, r, o)
		span.End()
		if h.o.Observe != nil {
			h.o.Observe(o)
		}
	}
}

// describe writes into a span how its request went. Queries and headers are left
// out: they may hold secrets.
func (h *handler) describe(span trace.Span, r *http.Request, o Observation) {
	if !span.IsRecording() {
		return
	}
	span.SetName(methodOf(r) + " " + o.Request.Op.String())
	span.SetAttributes(
		semconv.HTTPRequestMethodKey.String(methodOf(r)),
		semconv.URLPath(r.URL.Path[:min(len(r.URL.Path), MaxTarget)]),
		semconv.HTTPResponseStatusCode(o.Status),
		semconv.HTTPResponseBodySize(int(o.Bytes)),
		attribute.String("meshproxy.request", o.ID),
		attribute.String("meshproxy.source", o.Source),
		attribute.String("meshproxy.from", o.From),
	)
	switch {
	case o.Cut:
		span.SetStatus(codes.Error, "cut off: the content failed midway")
	case o.Status >= http.StatusInternalServerError && o.Err != nil:
		span.SetStatus(codes.Error, o.Err.Error())
	}
}

// methodOf is a request's method, if it is one that is answered: others are the
// client's words.
func methodOf(r *http.Request) string {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return r.Method
	}
	return "_OTHER"
}
