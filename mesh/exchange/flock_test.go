//go:build unix

package exchange

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// flock is a mesh of many members in one process, for questions and claims alone:
// records are in memory, and only the askers are connected to everybody.
type flock struct {
	ids   []peer.ID
	birds map[peer.ID]*bird
	asked atomic.Int64 // streams answered
}

// askers is how many members of a flock ask.
const askers = 4

type bird struct {
	flock *flock
	host  host.Host
	key   crypto.PrivKey
	x     *Exchange

	mu      sync.Mutex // guards records
	records map[verify.Name]*verify.Signed
}

func newFlock(b *testing.B, n int) *flock {
	f := &flock{birds: map[peer.ID]*bird{}}
	for range n {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		one := &bird{flock: f, key: key, host: newHost(b, key), records: map[verify.Name]*verify.Signed{}}
		f.ids = append(f.ids, one.host.ID())
		f.birds[one.host.ID()] = one
	}
	for _, one := range f.birds {
		one.x = New(Config{Host: one.host, Members: one, Backend: one, Log: slog.New(slog.DiscardHandler)})
		one.count()
		b.Cleanup(func() { one.x.Close(); one.host.Close() })
	}
	for i := range min(askers, n) {
		for _, p := range f.ids {
			if p == f.ids[i] {
				continue
			}
			to := peer.AddrInfo{ID: p, Addrs: f.birds[p].host.Addrs()}
			if err := f.asker(i).host.Connect(b.Context(), to); err != nil {
				b.Fatal(err)
			}
		}
	}
	return f
}

func (f *flock) asker(i int) *bird { return f.birds[f.ids[i%min(askers, len(f.ids))]] }

// count answers as before, and counts what is answered.
func (o *bird) count() {
	for _, p := range protocols {
		g := &gate{perPeer: p.peer, total: p.total, open: map[peer.ID]int{}}
		o.host.SetStreamHandler(p.id, func(s network.Stream) {
			o.flock.asked.Add(1)
			if !o.x.start(func() { o.x.handle(g, s, p.id, p.answer) }) {
				s.Reset()
			}
		})
	}
}

func (o *bird) Members() []peer.ID { return o.flock.ids }

func (o *bird) Connected() []peer.ID { return o.host.Network().Peers() }

func (o *bird) IsMember(p peer.ID) bool { return o.flock.birds[p] != nil }

func (o *bird) Office(p peer.ID) string { return p.String() }

func (o *bird) Record(n verify.Name) (*verify.Signed, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.records[n]; s != nil {
		return s, nil
	}
	return nil, fs.ErrNotExist
}

func (o *bird) Accept(_ context.Context, _ peer.ID, s *verify.Signed) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.records[s.Record.Name] = s
	return nil
}

func (o *bird) HasZip(verify.Digest) bool { return false }

func (o *bird) Listing(verify.Digest) ([]byte, error) { return nil, fs.ErrNotExist }

func (o *bird) OpenRaw(verify.Digest) (modzip.Raw, io.ReadCloser, error) {
	return modzip.Raw{}, nil, fs.ErrNotExist
}

func (o *bird) PutRaw(context.Context, modzip.Raw, io.Reader) error { return fs.ErrNotExist }

func (o *bird) PutContents(context.Context, []modzip.Content) error { return fs.ErrNotExist }

func (o *bird) Answer(string) ([]byte, time.Time, error) { return nil, time.Time{}, fs.ErrNotExist }

func (o *bird) KeepAnswer(context.Context, peer.ID, string, []byte, time.Time) error { return nil }

// flockName is a different name for each i.
func flockName(i int) verify.Name {
	return verify.Name{Module: module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}, Kind: verify.Mod}
}

// fetched is a record of a go.mod of about a kilobyte, by o.
func (o *bird) fetched(b *testing.B, n verify.Name) *verify.Signed {
	data := fmt.Appendf(nil, "module %s\n\n// %01000d\n", n.Module.Path, 0)
	s, err := verify.Seal(&verify.Record{
		Mesh: "test", Name: n, Digest: verify.DigestMod(data), Data: data, Size: int64(len(data)),
		Fetched: time.Unix(1700000000, 0).UTC(), Office: "one", Source: "direct", Vouch: verify.Vouch{By: verify.ByMember},
	}, o.key)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkFlock measures, in meshes of three sizes, one name that home peers know,
// 200 such names, and a first fetch with its claim: latencies, and streams opened by
// all members together, each of which is a message there and one or few back.
func BenchmarkFlock(b *testing.B) {
	const known = 200
	for _, n := range []int{10, 50, 200} {
		f := newFlock(b, n)
		var names []verify.Name
		for i := range known {
			names = append(names, flockName(i))
			for _, p := range newRing(f.ids).nearest(homeKey(names[i]), defaultHomes) {
				if err := f.birds[p].Accept(b.Context(), "", f.asker(0).fetched(b, names[i])); err != nil {
					b.Fatal(err)
				}
			}
		}
		lookup := func(x *Exchange, names []verify.Name) {
			reply, err := x.Records(b.Context(), names, RecordsOptions{Patient: true})
			if err != nil {
				b.Fatal(err)
			}
			for _, r := range reply.Found {
				if len(r.Records) == 0 {
					b.Fatalf("%v not found", r.Name)
				}
			}
		}
		fresh := known
		for _, c := range []struct {
			name string
			do   func(i int)
		}{
			{"lookup=1", func(i int) { lookup(f.asker(i).x, names[i%known:][:1]) }},
			{"lookup=200", func(i int) { lookup(f.asker(i).x, names) }},
			{"claim", func(i int) {
				fresh++
				asker, name := f.asker(i), flockName(fresh)
				claim, err := asker.x.Claim(b.Context(), name)
				if err != nil || claim.Outcome != Fetch {
					b.Fatal(claim, err)
				}
				s := asker.fetched(b, name)
				asker.Accept(b.Context(), "", s)
				if err := claim.Lease.Done(b.Context(), s); err != nil {
					b.Fatal(err)
				}
			}},
		} {
			b.Run(fmt.Sprintf("members=%d/%s", n, c.name), func(b *testing.B) {
				var took []time.Duration
				asked, cpu := f.asked.Load(), cpuTime(b)
				for i := 0; b.Loop(); i++ {
					start := time.Now()
					c.do(i)
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
				b.ReportMetric(float64(f.asked.Load()-asked)/float64(b.N), "streams/op")
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}
