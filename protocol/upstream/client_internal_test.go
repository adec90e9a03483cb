package upstream

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// TestOneConnection holds that many requests to one proxy share a connection
// with HTTP/2, by the client that Parse makes.
func TestOneConnection(t *testing.T) {
	var conns, wrong atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			wrong.Add(1)
		}
		fmt.Fprint(rw, "module example.test/a\n")
	}))
	s.EnableHTTP2 = true
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.StartTLS()
	defer s.Close()

	u, err := Parse(s.URL, Options{Env: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	n := verify.Name{Module: module.Version{Path: "example.test/a", Version: "v1.0.0"}, Kind: verify.Mod}
	get := func() {
		if _, err := u.File(t.Context(), n); err != nil {
			t.Error(err)
		}
	}
	get() // those that find no connection at all each make one
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(get)
	}
	wg.Wait()
	if conns.Load() != 1 || wrong.Load() != 0 {
		t.Errorf("%d connections, %d requests without HTTP/2; want 1 and 0", conns.Load(), wrong.Load())
	}
}
