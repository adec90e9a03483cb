package outside

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/meshproxy/meshproxy/testnet/ports"
)

// Server is an HTTP server, on loopback unless told otherwise, that counts what it is asked and breaks
// on demand: an upstream module proxy, or a checksum database, around any
// handler. It is safe for use by several goroutines.
type Server struct {
	content http.Handler
	listen  Listen
	addr    string // kept over Stop and Start, so that the URL stays

	mu       sync.Mutex
	http     *http.Server // nil while stopped
	served   chan struct{}
	requests []Request
	inFlight int
	peak     int
	faults   []*Fault
}

// NewServer starts a server of content on a loopback port of its own. The caller
// ends it with Stop.
func NewServer(content http.Handler) (*Server, error) {
	addr, err := ports.Address() // Stop and Start keep it
	if err != nil {
		return nil, fmt.Errorf("outside server: %w", err)
	}
	return NewServerAt(content, addr, net.Listen)
}

// Listen is net.Listen, or the same at another place.
type Listen func(network, address string) (net.Listener, error)

// NewServerAt is NewServer for an address and a place that are not this machine's
// loopback. Port 0 chooses one.
func NewServerAt(content http.Handler, address string, listen Listen) (*Server, error) {
	s := &Server{content: content, listen: listen, addr: address}
	return s, s.Start()
}

// URL is where the server listens, or listened before Stop.
func (s *Server) URL() string { return "http://" + s.addr }

// Start listens again after Stop, at the same address.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	l, err := s.listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("outside server: %w", err)
	}
	s.addr = l.Addr().String()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.served = make(chan struct{})
	go func(srv *http.Server, done chan struct{}) {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener is ours alone
		}
	}(s.http, s.served)
	return nil
}

// Stop cuts every connection; from then on new ones are refused.
func (s *Server) Stop() {
	s.mu.Lock()
	srv, done := s.http, s.served
	s.http = nil
	s.mu.Unlock()
	if srv != nil {
		srv.Close() // also cancels the context of each request, which ends hung ones
		<-done
	}
}

// Requests returns what was asked so far, in the order of answers.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Count returns how many requests of the kinds were made, of all kinds if none is
// given.
func (s *Server) Count(kinds ...Kind) int {
	n := 0
	for _, r := range s.Requests() {
		if len(kinds) == 0 || slices.Contains(kinds, r.Kind) {
			n++
		}
	}
	return n
}

// Counts returns the number of requests by kind.
func (s *Server) Counts() map[Kind]int {
	counts := map[Kind]int{}
	for _, r := range s.Requests() {
		counts[r.Kind]++
	}
	return counts
}

// Repeated returns the paths that were asked for more than once, with how often.
func (s *Server) Repeated() map[string]int {
	tally := map[string]int{}
	for _, r := range s.Requests() {
		tally[r.Path]++
	}
	for path, n := range tally {
		if n == 1 {
			delete(tally, path)
		}
	}
	return tally
}

// InFlight returns how many requests are being answered now, and the most that
// ever were at once.
func (s *Server) InFlight() (now, peak int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight, s.peak
}

// Reset forgets the requests so far.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.peak = nil, s.inFlight
}

// WaitInFlight waits until at least n requests are being answered at once: that
// many clients hang on this server.
func (s *Server) WaitInFlight(ctx context.Context, n int) error {
	for {
		if now, _ := s.InFlight(); now >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			now, _ := s.InFlight()
			return fmt.Errorf("outside server: %d of %d requests in flight: %w", now, n, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// ServeHTTP counts the request, and answers it from the content or by a fault.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r := Classify(req)
	fault := s.enter(r)
	cw := &countingWriter{ResponseWriter: w}
	defer func() {
		s.leave(r, cw)
	}()
	if fault == nil {
		s.content.ServeHTTP(cw, req)
		return
	}
	fault.serve(cw, req, s.content)
}

// enter notes the start of a request and picks the fault that it meets, if any.
func (s *Server) enter(r Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight++
	s.peak = max(s.peak, s.inFlight)
	for _, f := range s.faults {
		if f.hits(r) {
			return f
		}
	}
	return nil
}

func (s *Server) leave(r Request, cw *countingWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
	r.Status, r.Bytes = cw.status, cw.bytes
	s.requests = append(s.requests, r)
}

// countingWriter remembers status and size of an answer.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
