package upstream_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// pipes is a network in memory between a client and one server. Its waits run on
// the clock of a synctest bubble.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accept:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.closed); return nil }

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.accept <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fetch asks an upstream that is h for a file, on a clock of its own, and tells
// how long that took.
func fetch(t *testing.T, h http.HandlerFunc, kind verify.Kind, o upstream.Options) (f *upstream.Fetched, took time.Duration, err error) {
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	s := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(p) // ends with Close
	}()
	transport := &http.Transport{DialContext: p.dial, DisableKeepAlives: true}
	o.Transport = transport
	start := time.Now()
	f, err = parse(t, "http://proxy.example.test", o).File(t.Context(), name(modA, "v1.0.0", kind))
	took = time.Since(start)
	s.Close()
	<-served
	return f, took, err
}

// TestHang holds that an upstream which stands still is given up, before an
// answer and in it, when the limit says so, and that this is a timeout.
func TestHang(t *testing.T) {
	o := upstream.Options{Stall: time.Minute, Patience: time.Hour}
	for _, test := range []struct {
		name, before, says string
		after              time.Duration
	}{
		{"no answer", "", "no answer for 1h0m0s", o.Patience},
		{"half an answer", "module", "no byte for 1m0s", o.Stall},
	} {
		for _, kind := range []verify.Kind{verify.Mod, verify.Zip} {
			t.Run(test.name+"/"+string(kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var asked atomic.Int32
					_, took, err := fetch(t, func(rw http.ResponseWriter, r *http.Request) {
						asked.Add(1)
						if test.before != "" {
							io.WriteString(rw, test.before)
							http.NewResponseController(rw).Flush()
						}
						<-r.Context().Done()
					}, kind, o)
					if protocol.StatusOf(err) != http.StatusGatewayTimeout || !strings.Contains(err.Error(), test.says) {
						t.Errorf("status %d, %v; want 504, %q", protocol.StatusOf(err), err, test.says)
					}
					if asked := asked.Load(); asked != 1 || took != test.after {
						t.Errorf("asked %d times for %v, want once for %v", asked, took, test.after)
					}
				})
			})
		}
	}
}

// TestTrickle holds that an answer may take much longer than the stall as long
// as it makes progress.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, took, err := fetch(t, func(rw http.ResponseWriter, _ *http.Request) {
			for _, b := range []byte(gomodA) {
				time.Sleep(50 * time.Second)
				rw.Write([]byte{b})
				http.NewResponseController(rw).Flush()
			}
		}, verify.Mod, upstream.Options{Stall: time.Minute, Patience: time.Minute})
		if err != nil || string(f.Data) != gomodA || took < 10*time.Minute {
			t.Errorf("after %v: %+v, %v", took, f, err)
		}
	})
}
