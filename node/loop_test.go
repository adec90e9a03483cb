package node_test

import (
	"net"
	"testing"

	"github.com/meshproxy/meshproxy/node"
)

// freePort is an address that nothing listens at now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestLoop(t *testing.T) {
	a := newAround(t)
	one, two := freePort(t), freePort(t)
	first := a.Found("one", node.Config{Listen: one, Upstream: "http://" + two})
	second := a.Found("two", node.Config{Listen: two, Upstream: "http://" + one})
	for _, path := range []string{tagged + "v1.0.0.zip", tagged + "list", "/example.test/tagged/@latest", tagged + "main.info"} {
		a.wantText(first, 508, path, "loop detected")
		a.wantText(second, 508, path, "loop detected")
	}
}
