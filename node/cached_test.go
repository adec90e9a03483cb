package node_test

import (
	"testing"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

// TestCachedFromMesh: a request that forbids to fetch is answered from what other
// offices hold where the operator says so, and from this office alone where not.
func TestCachedFromMesh(t *testing.T) {
	a := newAround(t)
	one := a.Found("one", a.online())
	for _, path := range []string{"v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip", "list"} {
		a.want(one, 200, tagged+path)
	}
	cfg := a.online()
	alone := a.Join("alone", one, cfg)
	cfg.Policy.CachedFromMesh = true
	with := a.Join("with", one, cfg)
	a.Settle()
	a.upstream.Reset()
	// Records, and what they carry, may have been pushed here already; zips are not.
	a.wantText(alone, 404, "/cached-only"+tagged+"v1.0.0.zip", "forbids")
	for _, path := range []string{"v1.0.0.zip", "v1.0.0.mod", "v1.0.0.info", "list"} {
		a.want(with, 200, "/cached-only"+tagged+path)
	}
	a.wantText(with, 404, "/cached-only"+tagged+"v1.1.0.zip", "forbids")
	a.wantCounts(map[outside.Kind]int{})
}
