package protocol

import (
	"log/slog"
	"net/http"
	"time"
)

// Timeouts and limits of NewServer. There is none for a whole request or answer:
// a first fetch may take minutes and 500 MiB over a slow link hours. A client
// that stalls is cut off by HandlerOptions.Stall.
const (
	headerTimeout  = 10 * time.Second // for a request's line and headers
	idleTimeout    = 3 * time.Minute  // between the requests of a connection
	maxHeaderBytes = 32 << 10
)

// NewServer returns a server for h, which is the one of NewHandler or passes
// requests on to it. Bodies of requests are read for no longer than headers are. It
// starts nothing; the caller owns listener and shutdown.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           bodiless(h),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// "OPTIONS *" is no request of this protocol either.
		DisableGeneralOptionsHandler: true,
	}
	if log != nil {
		s.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	}
	return s
}

// bodiless keeps the server from waiting for the body of a request that has no use for
// one, also where the request is refused: after an answer the server reads what is left
// of it.
func bodiless(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			// A ResponseWriter without deadlines (a test's recorder) cannot stall.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerTimeout))
		}
		h.ServeHTTP(w, r)
	})
}
