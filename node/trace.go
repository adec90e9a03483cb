package node

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// officeTracer says on every span which office it is of: that may change when the
// office joins a mesh, and offices may share a collector.
type officeTracer struct {
	trace.Tracer
	n *Node
}

// Start implements trace.Tracer.
func (t officeTracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	return t.Tracer.Start(ctx, name, append(opts, trace.WithAttributes(
		attribute.String("meshproxy.office", t.n.Office()),
		attribute.String("meshproxy.peer", t.n.mesh.ID().String()),
	))...)
}

// tracer is the one of the configuration, nil if there is none.
func (n *Node) tracer() trace.Tracer {
	if n.cfg.Tracer == nil {
		return nil
	}
	return officeTracer{n.cfg.Tracer, n}
}

// part begins a part of the trace that ctx belongs to; a span that does nothing if it
// belongs to none. End it with ended.
func (n *Node) part(ctx context.Context, name, what string) (context.Context, trace.Span) {
	t := n.tracer()
	if t == nil || !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return t.Start(ctx, name, trace.WithAttributes(attribute.String("meshproxy.what", what)))
}

// own is part for work that no client waits for: it is a trace by itself.
func (n *Node) own(ctx context.Context, name, what string) (context.Context, trace.Span) {
	t := n.tracer()
	if t == nil {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return t.Start(ctx, name, trace.WithNewRoot(), trace.WithAttributes(attribute.String("meshproxy.what", what)))
}

// ended ends a span with what came of its work.
func ended(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// sourced is ended for work that brings something from somewhere.
func sourced(span trace.Span, from origin, err error) {
	if err == nil {
		span.SetAttributes(attribute.String("meshproxy.source", from.kind), attribute.String("meshproxy.from", from.String()))
	}
	ended(span, err)
}

// fetchTraced is fetchChecked, as a part of the trace that ctx belongs to. The
// upstream is not told of the trace.
func (n *Node) fetchTraced(ctx context.Context, name verify.Name) (*upstream.Fetched, error) {
	ctx, span := n.part(ctx, "fetch", name.String())
	f, err := n.fetchChecked(ctx, name)
	var from origin
	if err == nil {
		from = origin{fromUpstream, f.Source}
	}
	sourced(span, from, err)
	return f, err
}

// refreshTraced is refresh, which asks the upstreams, as a part of the trace that its
// context belongs to.
func (n *Node) refreshTraced(key string, refresh func(context.Context) (mutable, error)) func(context.Context) (mutable, error) {
	return func(ctx context.Context) (mutable, error) {
		ctx, span := n.part(ctx, "fetch", key)
		m, err := refresh(ctx)
		sourced(span, m.from, err)
		return m, err
	}
}

// claim has ask claim something, as a part of the trace that ctx belongs to.
func (n *Node) claim(ctx context.Context, what string, ask func(context.Context) (*exchange.Claim, error)) (*exchange.Claim, error) {
	ctx, span := n.part(ctx, "claim", what)
	c, err := ask(ctx)
	if err == nil {
		span.SetAttributes(attribute.String("meshproxy.outcome", c.Outcome.String()), attribute.String("meshproxy.home", n.officeOf(c.Home)))
	}
	ended(span, err)
	return c, err
}

// inTrace returns life as a part of the trace of a span, if there is one: for work
// that outlives the request that starts it.
func inTrace(life context.Context, of trace.SpanContext) context.Context {
	if !of.IsValid() {
		return life
	}
	return trace.ContextWithSpanContext(life, of)
}

// linked notes on the span of ctx that its request waits for work that another one
// has begun.
func linked(ctx context.Context, begun trace.SpanContext) {
	own := trace.SpanFromContext(ctx)
	if own.IsRecording() && begun.IsValid() && own.SpanContext().SpanID() != begun.SpanID() {
		own.AddLink(trace.Link{SpanContext: begun})
	}
}

// asking begins the span of a question on behalf of several requests: it belongs to
// the trace of the first that has one, and has links to the others.
func (n *Node) asking(ctx context.Context, names []verify.Name, of []trace.SpanContext) (context.Context, trace.Span) {
	if len(of) == 0 {
		return n.part(ctx, "question", "")
	}
	ctx, span := n.part(inTrace(ctx, of[0]), "question", names[0].String())
	span.SetAttributes(attribute.Int("meshproxy.names", len(names)))
	for _, other := range of[1:] {
		span.AddLink(trace.Link{SpanContext: other})
	}
	return ctx, span
}
