//go:build unix

package store

import (
	"syscall"
	"testing"
	"time"
)

// cpuRate reports MB per second of CPU time, which a busy machine does not change
// as it does the clock's. Call what it returns when bytes have been worked on.
func cpuRate(b *testing.B) func(bytes int64) {
	start := cpuTime()
	return func(bytes int64) {
		b.ReportMetric(float64(bytes)/1e6/(cpuTime()-start).Seconds(), "MB/cpu-s")
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
