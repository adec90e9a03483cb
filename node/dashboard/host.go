package dashboard

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// hosts are the names under which the pages are shown, beside those that nobody
// elsewhere can have; in lower case, without a dot at the end.
//
// A browser lets a page read what comes from the page's own name. So a stranger's page
// has its name lead to this address once it is loaded (DNS rebinding), and asks for
// these pages by that name.
type hosts map[string]bool

func newHosts(names []string) hosts {
	h := make(hosts)
	for _, name := range names {
		h[plainName(name)] = true
	}
	return h
}

func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// only answers for these hosts alone.
func (h hosts) only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// With TLS the certificate has been held against the name already.
		if name := hostName(r.Host); r.TLS == nil && !h.has(name) {
			http.Error(w, fmt.Sprintf("this office does not know itself as %q: ask for its address instead, or name it with --ui-host", name),
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// has reports whether a stranger cannot have this name: it is known, an address, or
// without a dot, which no name in the public DNS is.
func (h hosts) has(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil || !strings.Contains(name, ".") {
		return true
	}
	name = plainName(name)
	return h[name] || strings.HasSuffix(name, ".localhost")
}

// hostName is a Host header without its port.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}
