//go:build unix

package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// TestManyNodes brings up as many full nodes in this process as MESHPROXY_NODES
// says, each connected to each, and tells what they take; without it, it is
// skipped. Connections are QUIC, so that they need no file descriptor each;
// MESHPROXY_NODES_P2P gives another address to listen on. At the end one file is
// asked of every node, and the world outside must see one request.
func TestManyNodes(t *testing.T) {
	count, err := strconv.Atoi(os.Getenv("MESHPROXY_NODES"))
	if err != nil || count < 2 {
		t.Skip("MESHPROXY_NODES does not say how many")
	}
	listen := os.Getenv("MESHPROXY_NODES_P2P")
	if listen == "" {
		listen = "/ip4/127.0.0.1/udp/0/quic-v1"
	}
	s := surround(t, generated(t, 1, 3))
	config := s.online()
	config.P2P, config.MemTable = []string{listen}, 2<<20
	all := []*Office{s.Found("o0", config)}
	t.Logf("| nodes | the last one's join, s | processor s so far | resident MiB | heap MiB | goroutines | descriptors |")
	token := ""
	for len(all) < count {
		if len(all)%tokenFor == 1 { // a token names who was there when it was made
			token = all[0].Invite(node.Invitation{Role: "member", TTL: 24 * time.Hour, Uses: tokenFor})
		}
		began := time.Now()
		o := s.start(fmt.Sprintf("o%d", len(all)), config, "")
		all = append(all, o)
		o.joinSlowly(token, slowly)
		s.meets(o, slowly) // or the founder is too busy for the next one
		if n := len(all); n == 2 || n%25 == 0 || n == count {
			t.Logf("| %d | %.2f | %s |", n, time.Since(began).Seconds(), footprint(t))
		}
	}
	began := time.Now()
	s.settleSlowly(slowly)
	t.Logf("each of %d is connected to each after another %.1f s: %s", count, time.Since(began).Seconds(), footprint(t))
	path, err := FilePath(s.world.Releases()[0].Version, "zip")
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	for _, o := range all {
		o.untilServed(path)
	}
	t.Logf("every node has served %s after %.1f s", path, time.Since(began).Seconds())
	profileHeap(t)
	stopAll(all)
	if n := s.upstream.Counts()[outside.Zip]; n != 1 {
		t.Errorf("%d requests for one zip by %d nodes, want 1", n, count)
	}
}

const (
	tokenFor = 10               // nodes that join by one token
	slowly   = 10 * time.Minute // for what takes a moment where there is a processor free
)

// joinSlowly is for members that are so busy that an attempt may run into its limit.
func (o *Office) joinSlowly(token string, within time.Duration) {
	t := o.net.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		_, err := o.node.Join(ctx, token)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("office %s: %v", o.Name, err)
		}
		t.Logf("office %s tries again: %v", o.Name, err)
	}
}

// stopAll stops offices at the same time: while one after the other stops, those that
// are left look for more and more that are gone.
func stopAll(offices []*Office) {
	var stopping sync.WaitGroup
	for _, o := range offices {
		stopping.Go(o.Stop)
	}
	stopping.Wait()
}

// meets waits until an office is connected to all others.
func (n *Net) meets(o *Office, within time.Duration) {
	n.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		connected := o.Status().Connected
		if connected >= len(n.offices)-1 {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("%s is connected to %d of %d after %v", o.Name, connected, len(n.offices)-1, within)
		}
	}
}

// settleSlowly is Settle for nets in which one look at every office takes long.
func (n *Net) settleSlowly(within time.Duration) {
	n.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(time.Second) {
		missing := n.apart()
		if missing == "" {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("offices still apart after %v: %s", within, missing)
		}
	}
}

// footprint is what this process takes.
func footprint(t *testing.T) string {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return fmt.Sprintf("%.0f | %d | %d | %d | %d", cpu.Seconds(), resident(t)>>20, m.HeapAlloc>>20, runtime.NumGoroutine(), len(descriptors))
}

// profileHeap writes what is in use to the file that MESHPROXY_NODES_HEAP names, for
// go tool pprof.
func profileHeap(t *testing.T) {
	t.Helper()
	name := os.Getenv("MESHPROXY_NODES_HEAP")
	if name == "" {
		return
	}
	runtime.GC()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pprof.WriteHeapProfile(f), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// resident is this process's memory that is not in files, in bytes: Badger maps its
// tables, which the system may drop at any time.
func resident(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatalf("memory %q: %v", rest, err)
			}
			return kib << 10
		}
	}
	return 0
}
