package testnet

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// TestWhatHasArrivedIsKept stops the only holder of a zip in the middle of it. When
// it is back, only the rest crosses the line, whether or not the client was given the
// zip while it came.
func TestWhatHasArrivedIsKept(t *testing.T) {
	for name, size := range map[string]int{"whole or not at all": 800 << 10, "given while it comes": 1600 << 10} {
		t.Run(name, func(t *testing.T) {
			s := surround(t, filled(t, size))
			const path = "/example.test/filled/@v/v1.0.0.zip"
			slow := s.online()
			slow.Sharing = node.Sharing{Replicas: 1, Up: exchange.Bandwidth{Total: 128 << 10}}
			a := s.Found("a", slow)
			a.MustGet(path)
			alone := s.offline()
			alone.Sharing.Replicas = 1 // nothing comes but what is asked for
			b := s.Join("b", a, alone)
			s.Settle()
			const received = "meshproxy_exchange_received_bytes_total"
			before := b.counter(received, nil)
			answered := make(chan bool)
			go func() {
				status, _, err := b.Get(path)
				answered <- err == nil && status == http.StatusOK
			}()
			for b.counter(received, nil)-before < size/2 {
				time.Sleep(10 * time.Millisecond)
			}
			a.Stop()
			if <-answered {
				t.Fatal("the zip came although its only holder went away in the middle")
			}
			a.Restart()
			for {
				if status, _, err := b.Get(path); err == nil && status == http.StatusOK {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if n := b.counter(received, nil) - before; n > size+size/4 {
				t.Errorf("%d bytes were received for a zip of %d whose half had arrived", n, size)
			}
			s.Check()
		})
	}
}

// filled is a world of one module with size bytes in files that do not compress.
func filled(t *testing.T, size int) *outside.World {
	t.Helper()
	files := map[string][]byte{"go.mod": []byte("module example.test/filled\n\ngo 1.21\n")}
	const each = 16 << 10
	random := rand.NewChaCha8([32]byte{})
	for i := range size / each {
		data := make([]byte, each)
		_, _ = random.Read(data)
		files[fmt.Sprintf("data/%03d.bin", i)] = data
	}
	w := new(outside.World)
	if _, err := w.AddFiles(module.Version{Path: "example.test/filled", Version: "v1.0.0"}, files); err != nil {
		t.Fatal(err)
	}
	return w
}
