package node_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// patience bounds every wait of a test; a quiet machine needs milliseconds.
const patience = 60 * time.Second

// archive is the world of most tests: a module with two versions and a branch,
// one without tags, and one that requires another.
const archive = `
-- example.test/tagged@v1.0.0/go.mod --
module example.test/tagged
-- example.test/tagged@v1.0.0/a.go --
package tagged
-- example.test/tagged@v1.1.0/go.mod --
module example.test/tagged
-- example.test/tagged@v1.1.0/a.go --
package tagged // again
-- example.test/tagged@v1.1.0?main --
-- example.test/untagged@v0.0.0-20240102030405-0123456789ab/go.mod --
module example.test/untagged
-- example.test/untagged@v0.0.0-20240102030405-0123456789ab/a.go --
package untagged
-- example.test/top@v1.0.0/go.mod --
module example.test/top

require example.test/middle v1.0.0
-- example.test/middle@v1.0.0/go.mod --
module example.test/middle

require example.test/tagged v1.1.0
-- example.test/private/x@v1.0.0/go.mod --
module example.test/private/x
-- example.test/private/x@v1.0.0/a.go --
package x
`

const (
	tagged   = "/example.test/tagged/@v/"
	untagged = "/example.test/untagged/@v/"
	pseudo   = "v0.0.0-20240102030405-0123456789ab"
)

// around is a net of offices with an upstream that serves a checksum database.
type around struct {
	*testnet.Net
	t        *testing.T
	world    *outside.World
	db       *outside.Database
	upstream *outside.Server
}

func newAround(t *testing.T) *around {
	t.Helper()
	w := new(outside.World)
	if err := w.AddArchive(archive); err != nil {
		t.Fatal(err)
	}
	db, err := w.Database("sums.test")
	if err != nil {
		t.Fatal(err)
	}
	up, err := outside.NewServer(outside.Proxy(w, db))
	if err != nil {
		t.Fatal(err)
	}
	a := &around{Net: testnet.New(t), t: t, world: w, db: db, upstream: up}
	t.Cleanup(up.Stop) // before the net: hung fetches end with the upstream
	return a
}

// online fetches from the upstream and checks with its database.
func (a *around) online() node.Config {
	return node.Config{Upstream: a.upstream.URL(), SumDB: a.db.Key()}
}

// offline takes modules from other offices only.
func (a *around) offline() node.Config { return node.Config{Upstream: "off", SumDB: a.db.Key()} }

// want asks an office and wants a status; it returns the body.
func (a *around) want(o *testnet.Office, status int, path string) string {
	a.t.Helper()
	got, body, err := o.Get(path)
	if err != nil {
		a.t.Fatalf("%s: %v", path, err)
	}
	if got != status {
		a.t.Fatalf("%s: status %d, want %d: %s", path, got, status, body)
	}
	return string(body)
}

// wantText is want, and the body must hold each of these.
func (a *around) wantText(o *testnet.Office, status int, path string, parts ...string) {
	a.t.Helper()
	body := a.want(o, status, path)
	for _, part := range parts {
		if !strings.Contains(body, part) {
			a.t.Errorf("%s: %q is not in the answer: %s", path, part, body)
		}
	}
}

// wantCounts compares what the upstream was asked since the last Reset.
func (a *around) wantCounts(want map[outside.Kind]int) {
	a.t.Helper()
	got := a.upstream.Counts()
	for kind, n := range want {
		if got[kind] != n {
			a.t.Errorf("upstream saw %d requests for %s, want %d", got[kind], kind, n)
		}
	}
}

// eventually asks until the status is the wanted one.
func (a *around) eventually(o *testnet.Office, status int, path string) {
	a.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, body, err := o.Get(path)
		if err == nil && got == status {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("%s: status %d, %v, want %d in the end: %s", path, got, err, status, body)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// header asks an office and returns a header of the answer.
func (a *around) header(o *testnet.Office, path, key string) string {
	a.t.Helper()
	resp, err := http.Get(o.URL() + path)
	if err != nil {
		a.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		a.t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	return resp.Header.Get(key)
}
