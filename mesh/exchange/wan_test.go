package exchange

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// wan is a link between two offices: a relay on loopback that delays and slows
// what goes through it, and that can be frozen, as by a cable pulled out.
type wan struct {
	delay  time.Duration // one way
	rate   float64       // bytes a second; 0 is no limit
	ln     net.Listener
	target string

	mu     sync.Mutex
	frozen chan struct{} // not nil while frozen; closed to thaw
	conns  []net.Conn
	bytes  [2]int64 // to the target, and from it
	wg     sync.WaitGroup
}

// dialOver connects from to to through a new link.
func dialOver(t testing.TB, from, to *office, delay time.Duration, rate float64) *wan {
	t.Helper()
	_, target, err := manet.DialArgs(to.host.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &wan{delay: delay, rate: rate, ln: ln, target: target}
	l.wg.Go(l.accept)
	t.Cleanup(l.close)
	addr, err := manet.FromNetAddr(ln.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if err := from.host.Connect(t.Context(), peer.AddrInfo{ID: to.id(), Addrs: []multiaddr.Multiaddr{addr}}); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *wan) close() {
	l.ln.Close()
	l.freeze(false)
	l.mu.Lock()
	for _, c := range l.conns {
		c.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

func (l *wan) accept() {
	for {
		in, err := l.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", l.target)
		if err != nil {
			in.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, in, out)
		l.mu.Unlock()
		l.wg.Go(func() { l.pipe(out, in, 0) })
		l.wg.Go(func() { l.pipe(in, out, 1) })
	}
}

// pipe moves bytes one way: each read is due a delay after it came, and after
// what the rate allows.
func (l *wan) pipe(dst, src net.Conn, way int) {
	type packet struct {
		data []byte
		due  time.Time
	}
	queue := make(chan packet, 1<<16)
	l.wg.Go(func() {
		defer dst.Close()
		for p := range queue {
			time.Sleep(time.Until(p.due))
			l.mu.Lock()
			frozen := l.frozen
			l.mu.Unlock()
			if frozen != nil {
				<-frozen
			}
			if _, err := dst.Write(p.data); err != nil {
				src.Close()
			}
		}
	})
	defer close(queue)
	free := time.Now()
	for {
		buf := make([]byte, 16<<10)
		n, err := src.Read(buf)
		if n > 0 {
			now := time.Now()
			if free.Before(now) {
				free = now
			}
			if l.rate > 0 {
				free = free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
			}
			l.mu.Lock()
			l.bytes[way] += int64(n)
			l.mu.Unlock()
			queue <- packet{buf[:n], free.Add(l.delay)}
		}
		if err != nil {
			return
		}
	}
}

// freeze stops or lets go what goes through the link, in both directions.
func (l *wan) freeze(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on && l.frozen == nil {
		l.frozen = make(chan struct{})
	} else if !on && l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
	}
}

func (l *wan) moved() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes[0] + l.bytes[1]
}

// TestSilentHomeIsPassedOver freezes the link to the first home peer while
// others wait there: the connection stays open, and nothing comes.
func TestSilentHomeIsPassedOver(t *testing.T) {
	w := newWorld(t, 1)
	asker := w.offices[0]
	links := map[*office]*wan{}
	for i := range 3 {
		o := w.join(fmt.Sprintf("peer%d", i), func(*Config) {})
		links[o] = dialOver(t, asker, o, 0, 0)
	}
	// A name whose first two home peers are others. Which peer they are is left
	// open: where the keys of two peers lie next to each other, one is always the
	// second when the other is the first. Two of three others are first and second
	// for some name wherever their keys lie.
	n := w.someName(func(n verify.Name) bool {
		return w.home(homeKey(n), 0) != asker && w.home(homeKey(n), 1) != asker
	})
	home := w.home(homeKey(n), 0)
	holder, err := home.x.Claim(t.Context(), n) // so that the asker has to wait
	if err != nil || holder.Outcome != Fetch {
		t.Fatal(holder, err)
	}
	defer holder.Lease.Close()
	claimed := make(chan *Claim, 1)
	go func() {
		c, err := asker.x.Claim(t.Context(), n)
		if err != nil {
			t.Error(err)
		}
		claimed <- c
	}()
	eventually(t, "the asker waits at its home peer", func() bool { return home.x.desk.waiting(claimKey(n)) == 1 })
	links[home].freeze(true)
	start := time.Now()
	c := <-claimed
	if c == nil {
		return
	}
	if c.Outcome != Fetch || c.Home == home.id() {
		t.Errorf("told %v by %v", c.Outcome, c.Home)
	} else {
		c.Lease.Close()
	}
	if waited := time.Since(start); waited > 2*leaseTimeout+5*time.Second {
		t.Errorf("waited %v for a peer that says nothing", waited)
	}
}

// TestCutAndHealed cuts the mesh in two while both sides ask for the same: each
// side fetches once; after that whoever asks is given what is there.
func TestCutAndHealed(t *testing.T) {
	w := &world{t: t, members: map[peer.ID]string{}}
	for i := range 6 {
		w.join(fmt.Sprintf("office%d", i), func(*Config) {})
	}
	right := w.offices[3:]
	var cut []*wan
	for i, a := range w.offices {
		for _, b := range w.offices[i+1:] {
			l := dialOver(t, a, b, 0, 0)
			if i < 3 && b != w.offices[1] && b != w.offices[2] {
				cut = append(cut, l)
			}
		}
	}
	if len(cut) != 9 {
		t.Fatalf("%d links between the sides, want 9", len(cut))
	}
	for _, l := range cut {
		l.freeze(true)
	}
	r := newRelease(t, "example.test/m", "v1.0.0", sources(1, 3))
	var mu sync.Mutex
	fetches := map[string]int{}
	var wg sync.WaitGroup
	for _, o := range w.offices {
		side := "left"
		if o == right[0] || o == right[1] || o == right[2] {
			side = "right"
		}
		wg.Go(func() {
			c, err := o.x.Claim(t.Context(), r.name(verify.Zip))
			if err != nil {
				t.Error(err)
				return
			}
			if c.Outcome != Fetch {
				return
			}
			mu.Lock()
			fetches[side]++
			mu.Unlock()
			time.Sleep(3 * leaseTimeout) // the others have found out who is cut off
			if err := c.Lease.Done(t.Context(), o.admit(r)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if fetches["left"] != 1 || fetches["right"] != 1 {
		t.Errorf("fetches %v, want one on each side", fetches)
	}
	for _, l := range cut {
		l.freeze(false)
	}
	eventually(t, "all are told after the cut is healed", func() bool {
		for _, o := range w.offices {
			c, err := o.x.Claim(t.Context(), r.name(verify.Zip))
			if err != nil || c.Outcome == Refused {
				return false
			}
			if c.Outcome == Fetch {
				c.Lease.Close()
				return false
			}
		}
		return true
	})
}

// BenchmarkGoModGraph asks for the go.mod files of a graph of 100, in layers of
// ten, as the go command does, across 50 ms: one after the other as each names
// the next; and with what the peer says is related fetched in one more question.
func BenchmarkGoModGraph(b *testing.B) {
	const layers, width = 10, 10
	mod := func(layer, i int) module.Version {
		return module.Version{Path: fmt.Sprintf("example.test/l%d/m%d", layer, i), Version: "v1.0.0"}
	}
	for _, related := range []bool{false, true} {
		b.Run(fmt.Sprintf("related=%v", related), func(b *testing.B) {
			w := newWorld(b, 1)
			for layer := range layers {
				for i := range width {
					text := "module " + mod(layer, i).Path + "\n"
					for j := range width {
						if layer+1 < layers {
							text += "require " + mod(layer+1, j).Path + " v1.0.0\n"
						}
					}
					w.offices[0].admitMod(mod(layer, i), text)
				}
			}
			asker := w.join("asker", func(*Config) {})
			link := dialOver(b, asker, w.offices[0], 25*time.Millisecond, 12.5e6)
			for b.Loop() {
				have := map[module.Version]bool{}
				before := link.moved()
				for layer := range layers {
					for i := range width {
						if m := mod(layer, i); !have[m] {
							askMods(b, asker, []module.Version{m}, related, have)
						}
					}
				}
				b.ReportMetric(float64(link.moved()-before), "wire-B/op")
			}
		})
	}
}

// askMods asks for go.mod files, and for those related to them.
func askMods(b *testing.B, o *office, mods []module.Version, related bool, have map[module.Version]bool) {
	var names []verify.Name
	for _, m := range mods {
		names = append(names, verify.Name{Module: m, Kind: verify.Mod})
	}
	reply, err := o.x.Records(b.Context(), names, RecordsOptions{Related: related})
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range reply.Found {
		if len(f.Records) == 0 {
			b.Fatalf("%v not found", f.Name)
		}
		have[f.Name.Module] = true
	}
	var more []module.Version
	for _, m := range reply.Related {
		if !have[m] {
			more = append(more, m)
		}
	}
	if len(more) > 0 {
		askMods(b, o, more, false, have)
	}
}

// BenchmarkWAN pulls a release of 16 MiB across 50 ms and 100 Mbit/s.
func BenchmarkWAN(b *testing.B) {
	files := sources(1, 1000, 8<<20, 8<<20)
	r := newRelease(b, "example.test/m", "v1.0.0", files)
	files["pkg1/file1.go"] = []byte("package pkg1 // changed\n")
	next := newRelease(b, "example.test/m", "v1.0.1", files)
	w := newWorld(b, 1)
	w.offices[0].admit(r)
	w.offices[0].admit(next)
	for b.Loop() {
		asker := w.join("asker", func(*Config) {})
		link := dialOver(b, asker, w.offices[0], 25*time.Millisecond, 12.5e6)
		before := link.moved()
		stats, err := asker.fetch(b.Context(), r, w.offices[0].id())
		if err != nil {
			b.Fatal(err)
		}
		wire := link.moved() - before
		b.ReportMetric(float64(wire)/float64(stats.Bytes), "wire/bytes")
		b.ReportMetric(stats.Took.Seconds()/(float64(stats.Bytes)/12.5e6), "time/ideal")
		before = link.moved()
		if stats, err = asker.fetchFrom(b.Context(), next, []verify.Digest{r.root}, w.offices[0].id()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(link.moved()-before), "upgrade-wire-B")
		b.ReportMetric(stats.Took.Seconds()*1000, "upgrade-ms")
		asker.stop()
		w.offices = w.offices[:1]
	}
}
