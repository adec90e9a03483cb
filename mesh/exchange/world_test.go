package exchange

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	mrand "math/rand/v2"
	"os"
	"runtime/pprof"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"go.uber.org/goleak"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// libp2p's memory watchdog and glog of badger's dependencies run for ever.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
	)
}

// office is a node as far as this package goes: a host, a store and an exchange.
type office struct {
	t      testing.TB
	name   string
	dir    string
	host   host.Host
	key    crypto.PrivKey
	store  *store.Store
	x      *Exchange
	world  *world
	up     sync.Once
	staged *store.Staged // by begin
	// refuse makes Accept refuse records of these modules, unwanted by the rules of the office.
	refuse, unwanted map[string]bool
	full             bool  // it cannot make copies
	class            Class // of what begin starts
}

// world is a set of offices that are all members, and know it.
type world struct {
	t       testing.TB
	mu      sync.Mutex
	members map[peer.ID]string // office by ID
	offices []*office
	watched sync.Once
}

// hangTime is how long a test with a world may take before it counts as hanging.
// The slowest takes a tenth of it on two busy cores.
const hangTime = 5 * time.Minute

// watch ends the process when the test hangs, and tells what every goroutine waits
// for, those that wait for the same together. The alarm of go test would tell it
// one goroutine at a time, and much later.
func (w *world) watch() {
	if _, test := w.t.(*testing.T); !test {
		return
	}
	alarm := time.AfterFunc(hangTime, func() {
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		panic(w.t.Name() + " hangs")
	})
	w.t.Cleanup(func() { alarm.Stop() })
}

// view is the membership as one office sees it.
type view struct{ o *office }

func (v view) Members() []peer.ID {
	v.o.world.mu.Lock()
	defer v.o.world.mu.Unlock()
	return slices.Collect(maps.Keys(v.o.world.members))
}

func (v view) Connected() []peer.ID {
	return slices.DeleteFunc(v.o.host.Network().Peers(), func(p peer.ID) bool {
		return v.o.host.Network().Connectedness(p) != network.Connected
	})
}

func (v view) IsMember(p peer.ID) bool {
	v.o.world.mu.Lock()
	defer v.o.world.mu.Unlock()
	_, ok := v.o.world.members[p]
	return ok
}

func (v view) Office(p peer.ID) string {
	v.o.world.mu.Lock()
	defer v.o.world.mu.Unlock()
	return v.o.world.members[p]
}

// backend is an office's own things, with the real store behind it.
type backend struct {
	*store.Store
	o *office
}

func (b backend) Accept(ctx context.Context, _ peer.ID, s *verify.Signed) error {
	if b.o.refuse[s.Record.Name.Module.Path] {
		return verify.ErrUnvouched
	}
	if b.o.unwanted[s.Record.Name.Module.Path] {
		return ErrUnwanted
	}
	return b.Commit(ctx, s, nil)
}

func (b backend) Answer(key string) ([]byte, time.Time, error) { return b.Mutable(key) }

func (b backend) KeepAnswer(_ context.Context, _ peer.ID, key string, value []byte, at time.Time) error {
	return b.SetMutable(key, value, at)
}

// newHost is a host with the transport that the mesh uses.
func newHost(t testing.TB, key crypto.PrivKey) host.Host {
	t.Helper()
	muxer := *yamux.DefaultTransport
	muxer.InitialStreamWindowSize = 4 << 20
	h, err := libp2p.New(
		libp2p.Muxer(yamux.ID, &muxer),
		libp2p.Identity(key),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// newWorld returns n offices, each connected to each.
func newWorld(t testing.TB, n int, tune ...func(i int, c *Config)) *world {
	t.Helper()
	w := &world{t: t, members: map[peer.ID]string{}}
	for i := range n {
		w.join(fmt.Sprintf("office%d", i), func(c *Config) {
			for _, f := range tune {
				f(i, c)
			}
		})
	}
	w.connect()
	return w
}

func (w *world) join(name string, tune func(*Config)) *office {
	w.t.Helper()
	return w.joinAt(w.t.TempDir(), name, tune)
}

// joinAt is join with a store that may be there already.
func (w *world) joinAt(dir, name string, tune func(*Config)) *office {
	w.t.Helper()
	w.watched.Do(w.watch)
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	st, err := store.Open(dir, store.Options{ScrubRate: -1, Reserve: 1 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	o := &office{t: w.t, name: name, dir: dir, host: newHost(w.t, key), key: key, store: st, world: w, refuse: map[string]bool{}, unwanted: map[string]bool{}}
	cfg := Config{Host: o.host, Members: view{o}, Backend: backend{st, o}, Log: slog.New(slog.DiscardHandler)}
	tune(&cfg)
	o.x = New(cfg)
	o.x.health.nearRTT = 0 // members of this world are far away, but for tests of what is done when they are near
	w.mu.Lock()
	w.members[o.host.ID()] = name
	w.mu.Unlock()
	w.offices = append(w.offices, o)
	w.t.Cleanup(o.stop)
	return o
}

// connect connects every office to every other.
func (w *world) connect() {
	w.t.Helper()
	for i, a := range w.offices {
		for _, b := range w.offices[i+1:] {
			if err := a.host.Connect(w.t.Context(), peer.AddrInfo{ID: b.host.ID(), Addrs: b.host.Addrs()}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// stop ends an office in order.
func (o *office) stop() {
	o.up.Do(func() {
		for _, c := range []io.Closer{o.x, o.host, o.store} {
			if err := c.Close(); err != nil {
				o.t.Error(err)
			}
		}
	})
}

func (o *office) id() peer.ID { return o.host.ID() }

// byID finds an office.
func (w *world) byID(p peer.ID) *office {
	for _, o := range w.offices {
		if o.id() == p {
			return o
		}
	}
	w.t.Fatalf("no office %v", p)
	return nil
}

// home returns the n-th nearest office to a text.
func (w *world) home(text string, n int) *office {
	var ids []peer.ID
	for _, o := range w.offices {
		ids = append(ids, o.id())
	}
	return w.byID(newRing(ids).nearest(text, n+1)[n])
}

// someName returns a name that is as a test wants it. That there is one is up to
// the test: peer IDs are random.
func (w *world) someName(good func(verify.Name) bool) verify.Name {
	w.t.Helper()
	for i := range 10_000 {
		n := verify.Name{Module: module.Version{Path: fmt.Sprintf("example.test/m%d", i), Version: "v1.0.0"}, Kind: verify.Mod}
		if good(n) {
			return n
		}
	}
	w.t.Fatal("no name is as it is wanted")
	return verify.Name{}
}

// release is a module version made for a test.
type release struct {
	module module.Version
	zip    []byte
	root   verify.Digest
	size   int64
}

func (r *release) name(k verify.Kind) verify.Name { return verify.Name{Module: r.module, Kind: k} }

// newRelease zips files, named below the module's root.
func newRelease(t testing.TB, path, version string, files map[string][]byte) *release {
	t.Helper()
	r := &release{module: module.Version{Path: path, Version: version}}
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := zw.Create(path + "@" + version + "/" + name)
		if err == nil {
			_, err = f.Write(files[name])
		}
		if err != nil {
			t.Fatal(err)
		}
		r.size += int64(len(files[name]))
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	r.zip = buf.Bytes()
	z, err := store.ScanZip(t.Context(), bytes.NewReader(r.zip), int64(len(r.zip)), r.module)
	if err != nil {
		t.Fatal(err)
	}
	r.root = z.Root
	return r
}

// sources makes n small files and large ones of the sizes given; they compress
// by about half.
func sources(seed uint64, n int, large ...int) map[string][]byte {
	rnd := mrand.New(mrand.NewPCG(seed, 1))
	text := func(size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = "abcdefghijklmnop"[rnd.IntN(16)]
		}
		return b
	}
	files := map[string][]byte{"go.mod": fmt.Appendf(nil, "module example.test/m\n\n// %d\n", seed)}
	for i := range n {
		files[fmt.Sprintf("pkg%d/file%d.go", i%17, i)] = text(200 + rnd.IntN(8000))
	}
	for i, size := range large {
		files[fmt.Sprintf("testdata/large%d", i)] = text(size)
	}
	return files
}

// sign makes o's statement about a file of a release.
func (o *office) sign(n verify.Name, digest verify.Digest, data []byte, size int64) *verify.Signed {
	o.t.Helper()
	s, err := verify.Seal(&verify.Record{
		Mesh: "test", Name: n, Digest: digest, Data: data, Size: size,
		Fetched: time.Unix(1700000000, 0).UTC(), Office: o.name, Source: "direct",
		Vouch: verify.Vouch{By: verify.ByMember},
	}, o.key)
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// admit commits the zip of a release at o, as after a first fetch.
func (o *office) admit(r *release) *verify.Signed {
	o.t.Helper()
	ctx := o.t.Context()
	z, err := o.store.ScanZip(ctx, bytes.NewReader(r.zip), int64(len(r.zip)), r.module)
	if err != nil {
		o.t.Fatal(err)
	}
	st, err := o.store.StageZip(ctx, z)
	if err != nil {
		o.t.Fatal(err)
	}
	defer st.Close()
	s := o.sign(r.name(verify.Zip), r.root, nil, r.size)
	if err := o.store.Commit(ctx, s, st); err != nil {
		o.t.Fatal(err)
	}
	return s
}

// admitMod commits a go.mod at o.
func (o *office) admitMod(m module.Version, gomod string) *verify.Signed {
	o.t.Helper()
	s := o.sign(verify.Name{Module: m, Kind: verify.Mod}, verify.DigestMod([]byte(gomod)), []byte(gomod), int64(len(gomod)))
	if err := o.store.Commit(o.t.Context(), s, nil); err != nil {
		o.t.Fatal(err)
	}
	return s
}

// fetch pulls a release to o and commits it, as a node does.
func (o *office) fetch(ctx context.Context, r *release, holders ...peer.ID) (PullStats, error) {
	return o.fetchFrom(ctx, r, nil, holders...)
}

// fetchFrom is fetch with other listings at hand.
func (o *office) fetchFrom(ctx context.Context, r *release, bases []verify.Digest, holders ...peer.ID) (PullStats, error) {
	var staged *store.Staged
	stats, err := o.x.Pull(ctx, PullRequest{
		Module: r.module, Root: r.root, Holders: holders, Size: r.size, Bases: bases,
		Stage: func(ctx context.Context, listing []byte) (missing []verify.File, err error) {
			if staged, err = o.store.StageListing(ctx, r.module, r.root, listing); err != nil {
				return nil, err
			}
			return staged.Missing()
		},
	})
	if staged != nil {
		defer staged.Close()
	}
	if err != nil {
		return stats, err
	}
	return stats, o.store.Commit(ctx, o.sign(r.name(verify.Zip), r.root, nil, r.size), staged)
}

// begin starts to pull a release to o, for the rest of the test.
func (o *office) begin(r *release, holders ...peer.ID) *Transfer {
	o.t.Helper()
	tr, err := o.x.Begin(o.t.Context(), PullRequest{
		Module: r.module, Root: r.root, Holders: holders, Size: r.size, Class: o.class,
		Stage: func(ctx context.Context, listing []byte) (missing []verify.File, err error) {
			if o.staged, err = o.store.StageListing(ctx, r.module, r.root, listing); err != nil {
				return nil, err
			}
			staged := o.staged
			o.t.Cleanup(func() { staged.Close() })
			return o.staged.Missing()
		},
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return tr
}

// missing lists the files that the release begun lacks.
func (o *office) missing() []verify.File {
	o.t.Helper()
	files, err := o.staged.Missing()
	if err != nil {
		o.t.Fatal(err)
	}
	return files
}

// served checks that o serves a zip with the content of the release.
func (o *office) served(r *release) {
	o.t.Helper()
	z, err := o.store.OpenZip(r.root)
	if err != nil {
		o.t.Fatalf("%s does not serve %v: %v", o.name, r.module, err)
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err != nil {
		o.t.Fatal(err)
	}
	got, err := store.ScanZip(o.t.Context(), bytes.NewReader(data), int64(len(data)), r.module)
	if err != nil {
		o.t.Fatal(err)
	}
	if got.Root != r.root {
		o.t.Fatalf("%s serves %v with root %v, want %v", o.name, r.module, got.Root.H1(), r.root.H1())
	}
}

// isReset reports whether the other side reset a stream.
func isReset(err error) bool {
	var reset *network.StreamError
	return errors.As(err, &reset)
}
