package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// startHook gives a script a validation hook at $HOOK: below it /allow allows,
// /words refuses example.test/words, /hang never answers, /die breaks off.
func startHook(env *testscript.Env) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<10))
		switch r.URL.Path {
		case "/words":
			if strings.Contains(string(body), `"Module":"example.test/words"`) {
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, "the licence of words was not approved\n")
			}
		case "/hang":
			<-r.Context().Done()
		case "/die":
			panic(http.ErrAbortHandler)
		}
	}))
	env.Defer(s.Close)
	env.Vars = append(env.Vars, "HOOK="+s.URL)
}
