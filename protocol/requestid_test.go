package protocol

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

func TestRequestID(t *testing.T) {
	for name, c := range map[string]struct {
		sent []string
		keep bool
	}{
		"none":                 {nil, false},
		"a fit one":            {[]string{"req-1.A_z"}, true},
		"an empty one":         {[]string{""}, false},
		"one that forges logs": {[]string{"a\nlevel=ERROR"}, false},
		"one with a space":     {[]string{"a b"}, false},
		"a long one":           {[]string{strings.Repeat("a", maxRequestID+1)}, false},
		"two":                  {[]string{"a", "b"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{Header: http.Header{RequestIDHeader: c.sent}}
			id := requestID(r)
			if !isRequestID(id) || (len(c.sent) > 0 && id == c.sent[0]) != c.keep {
				t.Errorf("sent %q, named %q", c.sent, id)
			}
			if got := RequestID(WithRequestID(t.Context(), id)); got != id {
				t.Errorf("the context says %q, want %q", got, id)
			}
		})
	}
	if got := RequestID(WithRequestID(context.Background(), "")); got != "" {
		t.Errorf("an unnamed request is %q", got)
	}
}
