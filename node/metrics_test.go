package node

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestMetrics(t *testing.T) {
	n := &Node{counts: newCounters(), registry: newRegistry()}
	t.Run("other paths are left alone, unclean ones too", func(t *testing.T) {
		var got string
		h := n.withMetrics(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.URL.Path }))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://office/a//b/../@v/list", nil))
		if got != "/a//b/../@v/list" {
			t.Errorf("the handler behind got %q", got)
		}
	})
	t.Run("the registry is served", func(t *testing.T) {
		w := httptest.NewRecorder()
		n.withMetrics(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, metricsPath, nil))
		body, err := io.ReadAll(w.Result().Body)
		if err != nil || w.Code != http.StatusOK || len(body) == 0 {
			t.Errorf("status %d, %d bytes, %v", w.Code, len(body), err)
		}
	})
}
