package protocol

import (
	"fmt"
	"net/http"
	"strings"
)

// Redirect is the error of a Backend that does not answer itself: the client is to
// ask the proxy at Base, an absolute URL, for the same.
type Redirect struct {
	Base string
}

// Error implements error.
func (e *Redirect) Error() string { return "ask " + e.Base }

// redirect sends the client elsewhere. What the client asked of this node only, it
// asks of nobody else.
func (h *handler) redirect(w *writer, r *http.Request, to *Redirect) {
	path := r.URL.EscapedPath()
	if strings.HasPrefix(path, cachedOnlyPrefix) {
		h.fail(w, r, NotFound("%s is not held here, and the request forbids to fetch it", r.URL.Path))
		return
	}
	head := w.Header()
	head["Location"] = []string{strings.TrimSuffix(to.Base, "/") + path}
	head["Content-Type"] = textPlain
	head["Cache-Control"] = noStore
	head["X-Content-Type-Options"] = nosniff
	w.WriteHeader(http.StatusTemporaryRedirect)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "ask %s\n", to.Base) // a reader that follows never sees it
	}
}
