package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
)

// ClientsConfig says which clients are served, and how. The zero value serves
// everybody who reaches the listener, without TLS.
type ClientsConfig struct {
	TokenFile string         // see protocol.ParseTokens; it is read again when it changes
	Allow     []netip.Prefix // addresses that clients may come from; empty: all
	Rate      float64        // requests a second of one client; 0: no limit
	Burst     int            // that a client may make at once. Default: 10 seconds' worth
	TLSCert   string         // PEM file, with TLSKey; both are read again when they change
	TLSKey    string
	Audit     bool // write down who asked for what
}

// openClients reads what decides who is served.
func (n *Node) openClients(context.Context) error {
	c := n.cfg.Clients
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return &ConfigError{"tls-cert", errors.New("a certificate and its key are wanted, or neither")}
	}
	if c.TLSCert != "" {
		n.cert = &reloaded[*tls.Certificate]{files: []string{c.TLSCert, c.TLSKey}, load: func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
			return &cert, err
		}}
		if _, err := n.cert.get(); err != nil {
			return &ConfigError{"tls-cert", err}
		}
	}
	if c.TokenFile != "" {
		n.tokens = &reloaded[[]protocol.Token]{files: []string{c.TokenFile}, load: func() ([]protocol.Token, error) {
			text, err := os.ReadFile(c.TokenFile)
			if err != nil {
				return nil, err
			}
			return protocol.ParseTokens(text)
		}}
		if _, err := n.tokens.get(); err != nil {
			return &ConfigError{"tokens", err}
		}
	}
	if text := n.open(); text != "" {
		n.log.Warn(text)
	}
	return nil
}

// open says that anybody may be served who reaches this office from elsewhere, ""
// if that is not so.
func (n *Node) open() string {
	c := n.cfg.Clients
	addr, ok := n.http.Addr().(*net.TCPAddr)
	if !ok || addr.IP.IsLoopback() || c.TokenFile != "" || len(c.Allow) > 0 {
		return ""
	}
	return fmt.Sprintf("anybody who reaches %s is served, private modules included: say who may with --tokens or --allow-clients", addr)
}

// scheme is that of this office's URL.
func (n *Node) scheme() string {
	if n.cert != nil {
		return "https://"
	}
	return "http://"
}

// secured is the listener for the go command, with TLS if there is a certificate.
func (n *Node) secured(l net.Listener) net.Listener {
	if n.cert == nil {
		return l
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := n.cert.get()
			if err != nil {
				n.log.Error("a new certificate is no good; the old one stays in use", "err", err)
			}
			return cert, nil
		},
	})
}

// letIn puts the door for clients in front of next.
func (n *Node) letIn(next http.Handler) http.Handler {
	c := n.cfg.Clients
	o := protocol.ClientOptions{Allow: c.Allow, Rate: c.Rate, Burst: c.Burst, Exempt: []string{healthPath, readyPath}, Denied: n.denied}
	if o.Burst == 0 {
		o.Burst = int(10 * c.Rate)
	}
	if n.tokens != nil {
		o.Tokens = func() []protocol.Token {
			list, err := n.tokens.get()
			if err != nil {
				n.log.Error("the file of tokens is no good; those of before stay so", "err", err)
			}
			return list
		}
	}
	if c.Audit {
		next = n.noteRequests(next)
	}
	return protocol.Clients(next, o)
}

func (n *Node) denied(client string, err error) {
	n.audit.noteOnce(AuditEntry{What: auditDenied, Client: client, Detail: err.Error()})
}

// noteRequests writes down who asks for what.
func (n *Node) noteRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.audit.note(AuditEntry{What: auditRequest, Client: protocol.Client(r.Context()), Detail: r.Method + " " + r.URL.Path})
		next.ServeHTTP(w, r)
	})
}

// lookPeriod is how often files are looked at for changes, at most.
const lookPeriod = time.Second

// reloaded is something read from files, again when one of them has changed.
type reloaded[T any] struct {
	files []string
	load  func() (T, error)

	mu     sync.Mutex
	looked time.Time // guarded by mu
	mark   string    // guarded by mu; what of the files was read last
	value  T         // guarded by mu; the last good one
}

// get returns the last good value. The error is why a newer one is not, and is told
// once for each change.
func (r *reloaded[T]) get() (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.looked) < lookPeriod {
		return r.value, nil
	}
	r.looked = time.Now()
	mark := ""
	for _, file := range r.files {
		info, err := os.Stat(file)
		if err != nil {
			mark += err.Error()
			continue
		}
		mark += fmt.Sprintf("%d %d\n", info.Size(), info.ModTime().UnixNano())
	}
	if mark == r.mark {
		return r.value, nil
	}
	r.mark = mark
	value, err := r.load()
	if err == nil {
		r.value = value
	}
	return r.value, err
}

// checkClients is the doctor's view of who is served.
func (n *Node) checkClients(context.Context) Finding {
	f := Finding{Check: "clients", Verdict: Good, Detail: "only this machine is served"}
	switch text := n.open(); {
	case text != "":
		f.Verdict, f.Detail, f.Advice = Doubt, text, "make a token for each client: meshproxy client-token"
	case n.tokens != nil:
		list, _ := n.tokens.get() // an error was told already
		f.Detail = count(len(list), "client has a token", "clients have tokens")
	case len(n.cfg.Clients.Allow) > 0:
		f.Detail = "only some addresses are served"
	}
	return f
}
