//go:build unix

package mesh

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/verify"
)

// grow makes a mesh of n nodes in this process, each with a connection to each.
func grow(b *testing.B, n int) []*testNode {
	b.Helper()
	nodes := []*testNode{node(b, "office 0")}
	token := nodes[0].invite(InviteOptions{Uses: n})
	for i := range n - 1 {
		nodes = append(nodes, node(b, fmt.Sprintf("office %d", i+1)))
	}
	var g errgroup.Group
	g.SetLimit(4)
	for _, n := range nodes[1:] {
		g.Go(func() error {
			eventually(b, n.cfg.Office+" joins", func() bool { return n.Join(b.Context(), token) == nil })
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	deadline := time.Now().Add(10 * waitTime)
	for _, n := range nodes {
		for len(n.Connected()) < len(nodes)-1 {
			if time.Now().After(deadline) {
				b.Fatalf("%s has %d of %d connections", n.cfg.Office, len(n.Connected()), len(nodes)-1)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nodes
}

// BenchmarkJoin is from the token to a connection with every member, with four
// members on one machine.
func BenchmarkJoin(b *testing.B) {
	nodes := grow(b, 4)
	for b.Loop() {
		b.StopTimer()
		n := node(b, "late")
		token := nodes[0].invite(InviteOptions{})
		b.StartTimer()
		if err := n.Join(b.Context(), token); err != nil {
			b.Fatal(err)
		}
		for _, m := range nodes {
			for n.host.Network().Connectedness(m.ID()) != network.Connected {
				time.Sleep(time.Millisecond)
			}
		}
		b.StopTimer()
		if err := n.Leave(b.Context()); err != nil {
			b.Fatal(err)
		}
		n.stop()
		b.StartTimer()
	}
}

// BenchmarkRevocation is until the last of n members has it in force.
func BenchmarkRevocation(b *testing.B) {
	for _, n := range []int{5, 20, 50} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			nodes := grow(b, n)
			token := nodes[0].invite(InviteOptions{Uses: 1000})
			for b.Loop() {
				b.StopTimer()
				victim := node(b, "victim")
				eventually(b, "the victim joins", func() bool { return victim.Join(b.Context(), token) == nil })
				for _, m := range nodes {
					for !m.IsMember(victim.ID()) {
						time.Sleep(time.Millisecond)
					}
				}
				b.StartTimer()
				if _, err := nodes[0].Revoke(victim.ID().String(), ""); err != nil {
					b.Fatal(err)
				}
				for _, m := range nodes {
					for m.IsMember(victim.ID()) {
						time.Sleep(100 * time.Microsecond)
					}
				}
				b.StopTimer()
				victim.stop()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkIdle is what a member costs that does nothing: memory of the process
// and its CPU time, divided by its members.
func BenchmarkIdle(b *testing.B) {
	for _, n := range []int{5, 20, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			grow(b, n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			const settle, span = 30 * time.Second, 30 * time.Second
			time.Sleep(settle) // tables fill, credentials are renewed
			cpu := cpuSeconds(b)
			for b.Loop() {
				time.Sleep(span)
			}
			used := cpuSeconds(b) - cpu
			b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/float64(n)/(1<<20), "MiB/node")
			b.ReportMetric(100*used/b.Elapsed().Seconds()/float64(n), "%core/node")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuSeconds is what this process has used up to now.
func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// BenchmarkProvide is from Announce until another member finds the provider.
func BenchmarkProvide(b *testing.B) {
	nodes := grow(b, 10)
	i := 0
	for b.Loop() {
		i++
		root := verify.DigestOf(fmt.Appendf(nil, "listing %d", i))
		if err := nodes[1].Announce(b.Context(), root); err != nil {
			b.Fatal(err)
		}
		for !finds(nodes[2], root, nodes[1].ID()) {
			time.Sleep(time.Millisecond)
		}
	}
}

// BenchmarkPing is a round trip over an open connection, in peace, and while
// outsiders connect and say half a hello as fast as they can.
func BenchmarkPing(b *testing.B) {
	nodes := grow(b, 2)
	run := func(b *testing.B) {
		for b.Loop() {
			if _, err := nodes[0].Ping(b.Context(), nodes[1].ID()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("quiet", run)
	b.Run("flood", func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		var crowd sync.WaitGroup
		defer crowd.Wait()
		defer cancel()
		hello := nodes[1].session.Load().protocol(helloID)
		to := peer.AddrInfo{ID: nodes[1].ID(), Addrs: nodes[1].host.Network().ListenAddresses()}
		for range 4 {
			h := outsider(b, newKey(b))
			crowd.Go(func() {
				for ctx.Err() == nil {
					if h.Connect(ctx, to) == nil {
						if s, err := h.NewStream(ctx, to.ID, hello); err == nil {
							_, _ = s.Write([]byte{0x80, 0x80})
						}
					}
					h.Network().ClosePeer(to.ID)
				}
			})
		}
		run(b)
	})
}
