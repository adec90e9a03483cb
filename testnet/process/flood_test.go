package process_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// floodVariable has this program be outsiders that flood the office at its value, a
// multiaddr with a peer ID.
const floodVariable = "TESTNET_FLOOD"

const outsiders = 4

// runFlood has outsiders connect and say half a hello as fast as they can, until
// standard input ends, and prints how often they did.
func runFlood(to string) error {
	office, err := peer.AddrInfoFromString(to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var said atomic.Int64
	var crowd sync.WaitGroup
	for range outsiders {
		h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.Transport(tcp.NewTCPTransport),
			libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableRelay(), libp2p.DisableMetrics())
		if err != nil {
			return err
		}
		defer h.Close()
		crowd.Go(func() {
			for ctx.Err() == nil {
				if h.Connect(ctx, *office) != nil {
					continue
				}
				known, _ := h.Peerstore().GetProtocols(office.ID)
				hello := slices.IndexFunc(known, func(p protocol.ID) bool { return strings.Contains(string(p), "/hello/") })
				if hello >= 0 {
					if s, err := h.NewStream(ctx, office.ID, known[hello]); err == nil {
						if _, err := s.Write([]byte{0x80, 0x80}); err == nil {
							said.Add(1)
						}
					}
				}
				h.Network().ClosePeer(office.ID)
			}
		})
	}
	fmt.Println("flooding")
	_, err = io.Copy(io.Discard, os.Stdin)
	cancel()
	crowd.Wait()
	fmt.Println(said.Load())
	return err
}

// flood begins a flood by a process that is so nice; end stops it, and returns how many
// half hellos there were.
func flood(b *testing.B, o *process.Office, nice string) (end func() int) {
	b.Helper()
	st, err := o.Status(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	at := slices.IndexFunc(st.P2P, func(a string) bool { return strings.Contains(a, "/tcp/") })
	cmd := exec.Command("nice", "-n", nice, os.Args[0])
	cmd.Env = append(os.Environ(), floodVariable+"="+st.P2P[at])
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "flooding" {
		b.Fatal("there is no flood")
	}
	return func() (said int) {
		in.Close()
		lines.Scan()
		if _, err := fmt.Sscan(lines.Text(), &said); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
		return said
	}
}

// BenchmarkInfoUnderFlood asks an office for an .info that it holds, in peace and while
// outsiders flood its other port with connections and half hellos. All are processes
// on one machine; outsiders from elsewhere, who have processors of their own, are those
// that yield to the office.
func BenchmarkInfoUnderFlood(b *testing.B) {
	w := new(outside.World)
	if err := w.AddArchive("-- example.test/held@v1.0.0/go.mod --\nmodule example.test/held\n"); err != nil {
		b.Fatal(err)
	}
	up, err := outside.NewServer(w)
	if err != nil {
		b.Fatal(err)
	}
	defer up.Stop()
	o, err := binary.Start(b.Context(), filepath.Join(b.TempDir(), "a"), process.Options{Upstream: up.URL(), SumDB: "off"})
	if err != nil {
		b.Fatal(err)
	}
	defer o.Kill()
	url := o.URL() + "/example.test/held/@v/v1.0.0.info"
	var quiet time.Duration
	b.Run("quiet", func(b *testing.B) { quiet = getMany(b, url) })
	for name, nice := range map[string]string{"flood": "0", "flood from elsewhere": "19"} {
		b.Run(name, func(b *testing.B) {
			before, began := o.CPUTime(), time.Now()
			end := flood(b, o, nice)
			mean := getMany(b, url)
			said, took := end(), time.Since(began)
			b.ReportMetric(float64(said)/took.Seconds(), "hellos/s")
			b.ReportMetric(float64(o.CPUTime()-before)/float64(took), "cores")
			b.ReportMetric(float64(mean)/float64(max(quiet, 1)), "of-quiet")
		})
	}
}

// getMany asks for url until the benchmark ends, one after the other, and returns how long
// it took on average.
func getMany(b *testing.B, url string) time.Duration {
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		resp, err := http.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatalf("status %d, %v", resp.StatusCode, err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	return b.Elapsed() / time.Duration(len(took))
}
