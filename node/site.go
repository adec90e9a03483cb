package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/protocol"
)

// site is what a node serves beside modules.
type site struct {
	prefix  string // of paths: /ui/
	handler http.Handler
	own     net.Listener // an address of its own; nil: that of the go command
}

// Mount has h answer the requests whose path begins with prefix, before Run: at
// the address that serves the go command, or at one of its own, HOST:PORT. A
// request to it ends at the latest when the node does.
func (n *Node) Mount(prefix, listen string, h http.Handler) error {
	s := site{prefix: prefix, handler: h}
	if listen != "" {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return fmt.Errorf("serve %s: %w", prefix, err)
		}
		n.later(func() error { return notClosed(l.Close()) })
		s.own = l
	}
	n.sites = append(n.sites, s)
	return nil
}

// SiteURL is where what was mounted at prefix is found, "" if nothing was.
func (n *Node) SiteURL(prefix string) string {
	for _, s := range n.sites {
		if s.prefix != prefix {
			continue
		}
		at := n.http
		if s.own != nil {
			at = s.own
		}
		return n.scheme() + reachable(at.Addr()) + prefix
	}
	return ""
}

// handler answers the go command's requests with modules, and beside them those
// for metrics, health and what is mounted. What is no path of its own goes to the
// modules as it came, unclean paths included, which a ServeMux would redirect.
func (n *Node) handler(ctx context.Context, modules http.Handler) http.Handler {
	metrics := promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case metricsPath:
			metrics.ServeHTTP(w, r)
			return
		case healthPath:
			n.serveHealth(w, r)
			return
		case readyPath:
			n.serveReady(w, r)
			return
		}
		for _, s := range n.sites {
			switch {
			case s.own != nil:
			case strings.HasPrefix(r.URL.Path, s.prefix):
				endWith(ctx, s.handler).ServeHTTP(w, r)
				return
			case r.URL.Path == "/": // somebody's browser; the go command asks for more
				http.Redirect(w, r, s.prefix, http.StatusSeeOther)
				return
			}
		}
		modules.ServeHTTP(w, r)
	})
}

// serveSites serves what has an address of its own, to those clients only that are
// served modules, too.
func (n *Node) serveSites(ctx context.Context, g *errgroup.Group) {
	for _, s := range n.sites {
		if s.own == nil {
			continue
		}
		mux := http.NewServeMux()
		mux.Handle(s.prefix, endWith(ctx, s.handler))
		mux.Handle("GET "+metricsPath, promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
		mux.Handle("GET /{$}", http.RedirectHandler(s.prefix, http.StatusSeeOther))
		n.serve(ctx, g, n.secured(s.own), protocol.NewServer(n.letIn(mux), n.log))
	}
}

// endWith ends requests with ctx: one that streams would hold up a shutdown.
func endWith(ctx context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		both, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		h.ServeHTTP(w, r.WithContext(both))
	})
}
