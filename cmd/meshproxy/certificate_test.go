package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdCertificate writes a certificate for loopback, and its key, and sets a variable
// to the certificate's serial number in hexadecimal digits.
//
//	certificate VARIABLE CERT KEY
func cmdCertificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: certificate VARIABLE CERT KEY")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	ts.Check(err)
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "office"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	ts.Check(err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for path, block := range map[string]*pem.Block{args[1]: {Type: "CERTIFICATE", Bytes: der}, args[2]: {Type: "PRIVATE KEY", Bytes: raw}} {
		ts.Check(os.WriteFile(ts.MkAbs(path), pem.EncodeToMemory(block), 0o600))
	}
	ts.Setenv(args[0], serial.Text(16))
}

// cmdNetrc gives the go command a user and a password for a host.
//
//	netrc URL USER PASSWORD
func cmdNetrc(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: netrc URL USER PASSWORD")
	}
	host := strings.TrimPrefix(args[0], "https://") // with its port, as the go command wants it
	line := "machine " + host + " login " + args[1] + " password " + args[2] + "\n"
	ts.Check(os.WriteFile(ts.Getenv("HOME")+"/.netrc", []byte(line), 0o600))
}
