package exchange

import (
	"context"
	"errors"
	"io"
	"path"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traceKey is the key under which W3C trace context has what a question carries of
// the trace that it belongs to. Trace state is not carried: it has no bound worth
// having.
const traceKey = "traceparent"

// maxTrace is the length of a traceparent of version 00, in bytes. What is longer
// is ignored.
const maxTrace = 55

// asking begins the span of a stream to p as a part of the trace that ctx belongs
// to; nil if it belongs to none, or there is no tracer.
func (x *Exchange) asking(ctx context.Context, p peer.ID, proto protocol.ID) trace.Span {
	if x.cfg.Tracer == nil || !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	_, span := x.cfg.Tracer.Start(ctx, "ask "+what(proto), trace.WithSpanKind(trace.SpanKindClient), x.about(p))
	return span
}

// joinTrace begins the span of the answer to a question that came over l, as a part
// of the asker's trace if it told one. handle ends it.
func (x *Exchange) joinTrace(ctx context.Context, from peer.ID, l *link, parent string) {
	if x.cfg.Tracer == nil || len(parent) != maxTrace {
		return
	}
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceKey: parent})
	if trace.SpanContextFromContext(ctx).IsValid() {
		_, l.span = x.cfg.Tracer.Start(ctx, "answer "+what(l.s.Protocol()), trace.WithSpanKind(trace.SpanKindServer), x.about(from))
	}
}

// what is the word for a protocol: /meshproxy/files/1 is about files.
func what(proto protocol.ID) string { return path.Base(path.Dir(string(proto))) }

// about says who is on the other side.
func (x *Exchange) about(p peer.ID) trace.SpanStartEventOption {
	return trace.WithAttributes(
		attribute.String("network.peer.id", p.String()),
		attribute.String("network.peer.office", x.cfg.Members.Office(p)),
	)
}

// traceparent is what a question over l tells of its trace, "" if it belongs to none.
func (l *link) traceparent() string {
	if l.span == nil {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpan(context.Background(), l.span), carrier)
	return carrier[traceKey]
}

// inTrace returns life as a part of the trace that ctx belongs to.
func inTrace(life, ctx context.Context) context.Context {
	return trace.ContextWithSpanContext(life, trace.SpanContextFromContext(ctx))
}

// endSpan ends a span, if there is one, with what came of its stream. One that was
// given up because others were faster has not failed.
func endSpan(ctx context.Context, span trace.Span, err error) {
	if span == nil {
		return
	}
	switch {
	case err == nil, errors.Is(err, io.EOF):
	case ctx.Err() != nil, errors.Is(err, errNotNeeded):
		span.AddEvent("given up: not needed any more, or too late")
	default:
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
