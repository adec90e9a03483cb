package protocol

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

// HopHeader names, separated by commas, the nodes that a request has passed
// through. A node that finds itself there, or maxHops others, refuses the
// request: a proxy that asks itself would wait for its own answer.
const HopHeader = "Meshproxy-Hop"

const (
	maxHops    = 8
	maxHopsLen = 1 << 10 // bytes of the whole header
)

type hopsKey struct{}

// WithHops returns a context that carries hops to the upstream package, which
// sends them on. Whatever fetches on behalf of a request, even when it outlives
// that request, must keep them, and must not join requests whose hops differ.
func WithHops(ctx context.Context, hops string) context.Context {
	if hops == "" {
		return ctx
	}
	return context.WithValue(ctx, hopsKey{}, hops)
}

// Hops returns the nodes that the request behind ctx has passed through before
// this one, in the form of the header; empty for a client's own request.
func Hops(ctx context.Context) string {
	hops, _ := ctx.Value(hopsKey{}).(string)
	return hops
}

// checkHops refuses a request that has been here before.
func checkHops(h http.Header, self string) (hops string, err error) {
	values := h[HopHeader]
	if len(values) == 0 {
		return "", nil
	}
	hops = strings.Join(values, ",")
	if len(hops) > maxHopsLen {
		return "", Errorf(http.StatusBadRequest, "bad request: header %s of %d bytes: at most %d are read", HopHeader, len(hops), maxHopsLen)
	}
	ids := strings.Split(hops, ",")
	for i := range ids {
		ids[i] = strings.TrimSpace(ids[i])
	}
	switch {
	case self != "" && slices.Contains(ids, self):
		return "", Errorf(http.StatusLoopDetected, "loop detected: node %s has asked itself by way of %d other nodes; take this node out of its own upstreams, or out of theirs", self, len(ids)-1)
	case len(ids) > maxHops:
		return "", Errorf(http.StatusLoopDetected, "loop detected: request has passed through %d nodes, at most %d may follow one another", len(ids), maxHops)
	}
	return strings.Join(ids, ","), nil
}
