package protocol

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
)

// RequestIDHeader carries a name for a request, so that a client's report, this
// node's log and those of proxies in front of it can be laid side by side. The
// client's own is kept if it is fit to stand in a log.
const RequestIDHeader = "X-Request-Id"

// maxRequestID bounds a client's request ID, in bytes.
const maxRequestID = 64

// requestIDs is the header in the form in which maps have it.
var requestIDs = http.CanonicalHeaderKey(RequestIDHeader)

// requestID is the client's name for a request, or a new one.
func requestID(r *http.Request) string {
	if v := r.Header[requestIDs]; len(v) == 1 && isRequestID(v[0]) {
		return v[0]
	}
	return strconv.FormatUint(rand.Uint64(), 36)
}

func isRequestID(s string) bool {
	if s == "" || len(s) > maxRequestID {
		return false
	}
	for _, c := range []byte(s) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
		if !ok {
			return false
		}
	}
	return true
}

type requestIDKey struct{}

// WithRequestID names the request that a context belongs to.
func WithRequestID(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID is the name of the request that started what ctx is for, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
