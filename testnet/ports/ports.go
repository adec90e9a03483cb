// Package ports chooses TCP ports of loopback for what is stopped and started again
// at the same address. They lie below those that common systems give to outgoing
// connections, one of which could else take the port meanwhile. No port is chosen twice
// by one process; that no other process takes it is very likely, but not certain.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports are chosen from first to last. Outgoing connections begin at 32768 on Linux,
// and at 49152 elsewhere.
const (
	first = 10_000
	last  = 32_000
	tries = 1000
)

var (
	mu     sync.Mutex
	chosen = map[int]bool{} // guarded by mu
)

// Free returns a port at which nobody listens on 127.0.0.1.
func Free() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	var err error
	for range tries {
		port := first + rand.IntN(last-first+1)
		if chosen[port] {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			continue
		}
		chosen[port] = true
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port from %d to %d in %d tries; stop what listens there: %w", first, last, tries, err)
}

// Address is 127.0.0.1 with a port that is Free.
func Address() (string, error) {
	port, err := Free()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}
