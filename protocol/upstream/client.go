package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
)

const (
	maxRedirects    = 10 // as the go command allows
	dialTimeout     = 10 * time.Second
	tlsTimeout      = 10 * time.Second
	idleConnTimeout = 90 * time.Second
	pingTimeout     = 15 * time.Second // HTTP/2: a connection silent for so long is asked whether it lives
	maxHeaderBytes  = 64 << 10
)

// Errors of a client that no retry can mend.
var (
	errInsecureRedirect = errors.New("redirect from https to http refused")
	errRedirects        = fmt.Errorf("stopped after %d redirects", maxRedirects)
)

// errStalled is the cause of a request given up for want of progress.
type errStalled struct {
	after time.Duration
	what  string
}

func (e *errStalled) Error() string   { return fmt.Sprintf("no %s for %v", e.what, e.after) }
func (e *errStalled) Timeout() bool   { return true }
func (e *errStalled) Temporary() bool { return true }

// newClient returns the client for all proxies of a list: one pool of
// connections, HTTP/2 where it is spoken, file URLs as the go command reads them.
func newClient(o Options) *http.Client {
	rt := o.Transport
	if rt == nil {
		t := &http.Transport{
			Proxy:                  proxyFunc(environ(o.Env)),
			DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:    tlsTimeout,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingTimeout, PingTimeout: pingTimeout},
			MaxIdleConns:           4 * (o.Fetches + o.Zips),
			MaxIdleConnsPerHost:    o.Fetches + o.Zips,
			IdleConnTimeout:        idleConnTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
			DisableCompression:     true, // sizes are checked as they are sent; zips do not get smaller
		}
		t.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
		rt = t
	}
	own := newOwnAddrs(o.Own)
	return &http.Client{Transport: rt, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		return checkRedirect(req, via, own)
	}}
}

func checkRedirect(req *http.Request, via []*http.Request, own ownAddrs) error {
	if len(via) >= maxRedirects {
		return errRedirects
	}
	from := via[len(via)-1].URL
	if from.Scheme == "https" && req.URL.Scheme != "https" {
		return errInsecureRedirect
	}
	if req.URL.Scheme != "https" && req.URL.Scheme != "http" {
		return fmt.Errorf("redirect to %s refused", req.URL.Redacted())
	}
	if own.has(req.URL) {
		return fmt.Errorf("redirect to %s refused: %w", req.URL.Redacted(), ErrLoop)
	}
	if req.URL.Host != via[0].URL.Host {
		dropCredentials(req.Header)
	}
	return nil
}

// dropCredentials leaves a request only with headers that any host may see.
func dropCredentials(h http.Header) {
	for key := range h {
		switch key {
		case protocol.HopHeader, "User-Agent", "Range", "If-Range":
		default:
			delete(h, key)
		}
	}
}

// watch gives up a request that makes no progress: no answer for patience, or no
// byte of it for stall.
type watch struct {
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer
}

func newWatch(parent context.Context, patience, stall time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(parent)
	w := &watch{cancel: cancel, stall: stall}
	w.timer = time.AfterFunc(patience, func() { cancel(&errStalled{patience, "answer"}) })
	return ctx, w
}

// begin starts to watch the body. The timer of the wait for the answer may have
// fired already; then the first read fails.
func (w *watch) begin() {
	if w.timer.Stop() {
		w.timer = time.AfterFunc(w.stall, func() { w.cancel(&errStalled{w.stall, "byte"}) })
	}
}

func (w *watch) progress() { w.timer.Reset(w.stall) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// body is an answer's body, watched and limited.
type body struct {
	ctx   context.Context
	r     io.ReadCloser
	w     *watch
	limit int64 // bytes still allowed
	max   int64
}

// Read implements io.Reader. Too large a body is an error, not its end.
func (b *body) Read(p []byte) (int, error) {
	if b.limit < int64(len(p)) {
		p = p[:b.limit+1]
	}
	n, err := b.r.Read(p)
	if n > 0 {
		b.w.progress()
	}
	if b.limit -= int64(n); b.limit < 0 {
		return 0, &tooLarge{b.max}
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close ends the request.
func (b *body) Close() error {
	err := b.r.Close()
	b.w.stop()
	return err
}

type tooLarge struct{ max int64 }

func (e *tooLarge) Error() string { return fmt.Sprintf("answer is larger than %d bytes", e.max) }

// statusOf maps what an upstream said to what a client is told: refusals as they
// are, outages to 502, 503 and 504.
func statusOf(upstream int) int {
	switch upstream {
	case http.StatusTooManyRequests:
		return http.StatusServiceUnavailable // it is this node that asked too often
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return http.StatusForbidden // the client's credentials are not those that failed
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusLoopDetected:
		return upstream
	}
	if upstream >= 400 && upstream < 500 {
		return upstream
	}
	return http.StatusBadGateway
}

// statusOfFailure maps an error without an answer.
func statusOfFailure(err error) int {
	var ne net.Error
	var de *net.DNSError
	var oe *net.OpError
	switch {
	case errors.Is(err, ErrLoop):
		return http.StatusLoopDetected
	case errors.As(err, &ne) && ne.Timeout():
		return http.StatusGatewayTimeout
	case errors.As(err, &de), errors.As(err, &oe) && oe.Op == "dial":
		return http.StatusServiceUnavailable
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadGateway
}

// helps reports whether the same request may succeed if it is sent again at once.
func helps(status int, err error) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	if status != 0 {
		return false
	}
	var large *tooLarge
	var stalled *errStalled
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	return !errors.Is(err, errInsecureRedirect) && !errors.Is(err, errRedirects) && !errors.Is(err, ErrLoop) &&
		!errors.As(err, &large) && !errors.As(err, &stalled) && !errors.As(err, &cert) &&
		!(errors.As(err, &dns) && dns.IsNotFound)
}

// failure makes the error for what was asked and got no answer, or half of one.
func failure(what, source string, err error) *protocol.Error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // the URL is in what already
	}
	return protocol.Errorf(statusOfFailure(err), "%s: upstream %s: %w", what, source, err)
}
