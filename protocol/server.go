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
// requests on to it. It starts nothing; the caller owns listener and shutdown.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
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
