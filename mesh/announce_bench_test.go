//go:build unix

package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

// BenchmarkAnnounceMany announces 100,000 roots, as after an import, and waits until
// another member finds a sample of them spread over all.
func BenchmarkAnnounceMany(b *testing.B) {
	const count, sample = 100_000, 50
	nodes := grow(b, 10)
	round := 0
	for b.Loop() {
		round++
		roots := make([]verify.Digest, count)
		for i := range roots {
			roots[i] = verify.DigestOf(fmt.Appendf(nil, "listing %d of round %d", i, round))
		}
		start, cpu := time.Now(), cpuSeconds(b)
		if err := nodes[1].Announce(b.Context(), roots...); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds()/count*1e6, "call-µs/key")
		for i := range sample {
			for !finds(nodes[2], roots[i*count/sample], nodes[1].ID()) {
				time.Sleep(50 * time.Millisecond)
			}
		}
		b.ReportMetric(time.Since(start).Seconds()/count*1e3, "ms/key")
		b.ReportMetric((cpuSeconds(b)-cpu)/count*1e6, "cpu-µs/key")
	}
}
