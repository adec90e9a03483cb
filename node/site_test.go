package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
)

// certificate writes a certificate for loopback and its key, and returns who trusts it.
func certificate(t *testing.T) (c node.ClientsConfig, trust *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c.TLSCert, c.TLSKey = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, data := range map[string][]byte{c.TLSCert: certPEM, c.TLSKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust = x509.NewCertPool()
	trust.AppendCertsFromPEM(certPEM)
	return c, trust
}

// TestSiteAtItsOwnAddress: what is mounted elsewhere is behind the same door, has the
// same certificate, and says so in its URL.
func TestSiteAtItsOwnAddress(t *testing.T) {
	secure, trust := certificate(t)
	refusing := secure
	refusing.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for name, c := range map[string]struct {
		clients node.ClientsConfig
		scheme  string
		status  int
	}{
		"plain":                 {node.ClientsConfig{}, "http://", http.StatusOK},
		"TLS":                   {secure, "https://", http.StatusOK},
		"not for these clients": {refusing, "https://", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := node.New(t.Context(), node.Config{Dir: t.TempDir(), P2P: []string{"/ip4/127.0.0.1/tcp/0"}, NoLAN: true, Clients: c.clients})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			}()
			pages := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })
			if err := n.Mount("/ui/", "127.0.0.1:0", pages); err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- n.Run(ctx) }()
			defer func() {
				end()
				if err := <-ran; err != nil {
					t.Error(err)
				}
			}()
			client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}}}
			defer client.CloseIdleConnections()
			site := n.SiteURL("/ui/")
			if !strings.HasPrefix(site, c.scheme) {
				t.Errorf("the pages are at %s, want %s", site, c.scheme)
			}
			for _, url := range []string{site, strings.TrimSuffix(site, "ui/"), strings.TrimSuffix(site, "ui/") + "metrics"} {
				resp, err := client.Get(url)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != c.status {
					t.Errorf("%s: status %d, want %d", url, resp.StatusCode, c.status)
				}
			}
			st, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(st.URL, c.scheme) {
				t.Errorf("modules are at %s, want %s", st.URL, c.scheme)
			}
			resp, err := client.Get(st.URL + "/ui/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				t.Error("the pages are at the address of the modules too")
			}
		})
	}
}
