package protocol

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Defaults of HandlerOptions.
const (
	DefaultMaxAge = time.Minute
	DefaultStall  = 2 * time.Minute
)

// HandlerOptions are the settings of a handler; the zero value works.
type HandlerOptions struct {
	Self   string        // this node in the hop header: unique, no commas; empty: only the number of hops is limited
	MaxAge time.Duration // how long clients may cache mutable answers; 0: DefaultMaxAge
	Stall  time.Duration // a client that takes no byte for so long is cut off; 0: DefaultStall
	Log    *slog.Logger  // 5xx answers and answers cut off; nil: none
	// Observe, if set, is told of every request once it has been answered.
	Observe func(Observation)
	// Tracer, if set, makes a span of every request, in the client's trace if it sent
	// a traceparent. The backend's context belongs to that span.
	Tracer trace.Tracer
}

// Observation describes an answered request, for metrics.
type Observation struct {
	Request  Request // Op is 0 if the target did not parse
	Status   int
	Bytes    int64 // of the body
	Source   string
	From     string // the source with its name
	ID       string // of the request, see RequestIDHeader
	Err      error  // what the client was told, if it was an error
	Duration time.Duration
	Cut      bool // the connection was cut because content failed midway
}

type handler struct {
	backend Backend
	o       HandlerOptions
	mutable []string // Cache-Control of mutable answers
}

// NewHandler returns the handler that serves b. It wants to see targets as the
// client sent them: http.ServeMux answers unclean ones itself, so that the
// handler belongs in front of a mux and not behind one.
func NewHandler(b Backend, o HandlerOptions) http.Handler {
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Stall <= 0 {
		o.Stall = DefaultStall
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &handler{backend: b, o: o, mutable: maxAge(o.MaxAge)}
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &writer{ResponseWriter: rw, stall: h.o.Stall, id: requestID(r)}
	rw.Header()[requestIDs] = []string{w.id}
	var req Request
	var source, from string
	observe := h.o.Observe
	if h.o.Tracer != nil {
		r, observe = h.traced(r)
	}
	if observe != nil {
		start := time.Now()
		defer func() {
			observe(Observation{Request: req, Status: w.status, Bytes: w.written, Source: source, From: from, ID: w.id, Err: w.told, Duration: time.Since(start), Cut: w.cut})
		}()
	}
	defer h.rescue(w, r)
	req, r, err := h.parse(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	switch req.Op {
	case OpIndex:
		h.index(w, r)
		return
	case OpCatalog:
		h.catalog(w, r)
		return
	}
	a, err := h.ask(WithRequestID(r.Context(), w.id), r, req)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer a.Close() // of what was only read
	source, from = a.Source, a.From
	h.answer(w, r, h.meta(req), a)
}

// rescue turns a panic into an answer, or into a cut connection if the answer
// has begun: one request's bug must not look like a network's.
func (h *handler) rescue(w *writer, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { // that is how abort ends a request
		panic(p)
	}
	h.o.Log.Error("panic", "path", r.URL.Path, "request", w.id, "panic", p, "stack", string(debug.Stack()))
	if w.status == 0 {
		h.fail(w, r, Errorf(http.StatusInternalServerError, "internal error of this node; its log says more"))
		return
	}
	w.cut = true
	panic(http.ErrAbortHandler)
}

// parse does everything that needs no I/O.
func (h *handler) parse(r *http.Request) (Request, *http.Request, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return Request{}, r, Errorf(http.StatusMethodNotAllowed, "method not allowed: %.20q: want GET or HEAD", r.Method)
	}
	if len(r.RequestURI) > MaxTarget {
		return Request{}, r, Errorf(http.StatusRequestURITooLong, "bad request: target of %d bytes: at most %d are read", len(r.RequestURI), MaxTarget)
	}
	hops, err := checkHops(r.Header, h.o.Self)
	if err != nil {
		return Request{}, r, err
	}
	req, err := ParsePath(r.URL.Path)
	if err != nil {
		return req, r, err
	}
	if v := r.Header["Disable-Module-Fetch"]; len(v) > 0 {
		disabled, err := strconv.ParseBool(v[0])
		req.CachedOnly = req.CachedOnly || disabled && err == nil
	}
	if hops != "" {
		r = r.WithContext(WithHops(r.Context(), hops))
	}
	return req, r, nil
}

// ask puts a request to the backend.
func (h *handler) ask(ctx context.Context, r *http.Request, req Request) (*Answer, error) {
	o := Options{CachedOnly: req.CachedOnly}
	switch req.Op {
	case OpFile:
		return h.backend.File(ctx, req.Name, o)
	case OpQuery:
		return h.backend.Query(ctx, req.Path, req.Query, o)
	case OpList:
		return h.backend.List(ctx, req.Path, o)
	case OpLatest:
		return h.backend.Latest(ctx, req.Path, o)
	case OpSumDB:
		return h.backend.SumDB(ctx, req.Database, req.Sub, o)
	}
	return nil, Errorf(http.StatusInternalServerError, "operation %s of %s is not served", req.Op, r.URL.Path)
}
