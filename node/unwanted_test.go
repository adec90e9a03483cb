package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// TestOfficesThatExclude has most offices exclude a module, so that most likely one of
// them is at home for it: two others that want it at once fetch it once all the same.
func TestOfficesThatExclude(t *testing.T) {
	a := newAround(t)
	a.upstream.Break(outside.Fault{Delay: time.Second})
	filter := filepath.Join(t.TempDir(), "filter")
	if err := os.WriteFile(filter, []byte("- example.test/tagged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := a.Found("berlin", a.online())
	wanting := []*testnet.Office{first, a.Join("lisbon", first, a.online())}
	strict := a.online()
	strict.Policy.FilterFile = filter
	for _, name := range []string{"oslo", "paris", "rome", "vienna"} {
		a.Join(name, first, strict)
	}
	a.Settle()
	var all sync.WaitGroup
	for _, o := range wanting {
		for _, file := range []string{"v1.0.0.zip", "v1.1.0.zip", "v1.0.0.mod", "v1.1.0.mod", "v1.0.0.info", "v1.1.0.info"} {
			all.Go(func() { a.want(o, 200, tagged+file) })
		}
	}
	all.Wait()
	for path, times := range a.upstream.Repeated() {
		if strings.HasPrefix(path, tagged) { // of the database each office asks for itself
			t.Errorf("%s was fetched %d times", path, times)
		}
	}
}
