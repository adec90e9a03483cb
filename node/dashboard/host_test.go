package dashboard_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/node/dashboard"
)

// TestHosts asks for the pages under many names: those that a stranger can have lead
// here are refused, so that no page of theirs reads these.
func TestHosts(t *testing.T) {
	pages := dashboard.New(nil, dashboard.Options{Hosts: []string{"Modules.Example.test.", "berlin"}})
	plain, secure := httptest.NewServer(pages), httptest.NewTLSServer(pages)
	defer plain.Close()
	defer secure.Close()
	for name, c := range map[string]struct {
		server *httptest.Server
		host   string
		status int
	}{
		"address":                     {plain, "192.0.2.7:3000", http.StatusOK},
		"address without a port":      {plain, "127.0.0.1", http.StatusOK},
		"IPv6":                        {plain, "[::1]:3000", http.StatusOK},
		"IPv6 without a port":         {plain, "[2001:db8::1]", http.StatusOK},
		"localhost":                   {plain, "localhost:3000", http.StatusOK},
		"name below localhost":        {plain, "office.localhost:3000", http.StatusOK},
		"no dot":                      {plain, "meshproxy:3000", http.StatusOK},
		"its own name":                {plain, "modules.example.test:3000", http.StatusOK},
		"its own name in capitals":    {plain, "MODULES.example.TEST", http.StatusOK},
		"its own name with a dot":     {plain, "modules.example.test.:3000", http.StatusOK},
		"name of a stranger":          {plain, "rebound.example.test:3000", http.StatusMisdirectedRequest},
		"only a dot at its end":       {plain, "top.:3000", http.StatusMisdirectedRequest},
		"ends like its own":           {plain, "evil-modules.example.test", http.StatusMisdirectedRequest},
		"begins with an address":      {plain, "127.0.0.1.example.test", http.StatusMisdirectedRequest},
		"ends like localhost":         {plain, "notlocalhost.test", http.StatusMisdirectedRequest},
		"stranger, but a certificate": {secure, "rebound.example.test", http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.server.URL+dashboard.Path+"static/style.css", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = c.host
			resp, err := c.server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status {
				t.Errorf("status %d, want %d, %v: %s", resp.StatusCode, c.status, err, body)
			}
			if c.status != http.StatusOK && !strings.Contains(string(body), "--ui-host") {
				t.Errorf("no word on what to do: %s", body)
			}
		})
	}
}
