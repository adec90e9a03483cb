package sim

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// Config says what a world is made of. Members is needed; the zero values of the
// rest work.
type Config struct {
	Seed     uint64
	Members  int
	Links    Links         // zero is DefaultLinks
	Repair   bool          // members keep the number of copies up
	Replicas int           // 0 is 2
	Upstream time.Duration // that a fetch from the world outside takes; 0 is 1 s
	ZipSize  int           // bytes of each release; 0 is 16 KiB
	Log      *slog.Logger  // nil is none
}

// World is a mesh with its outside. Close ends it.
type World struct {
	cfg     Config
	rng     *rand.Rand // of the goroutine that drives the world
	net     *Network
	members []*Member
	ids     []peer.ID
	offices map[peer.ID]string

	listings map[verify.Digest][]byte // does not change while members run
	contents map[verify.Digest]content

	mu      sync.Mutex // guards interned and fetches
	sealed  map[[sha256.Size]byte]*verify.Signed
	fetches map[verify.Name]int
}

type content struct {
	raw  modzip.Raw
	data []byte
}

// Release is a module version that the world outside has.
type Release struct {
	Module module.Version
	mod    []byte
	root   verify.Digest
	files  []verify.File
	size   int64
}

// Name is that of one of its files.
func (r *Release) Name(k verify.Kind) verify.Name { return verify.Name{Module: r.Module, Kind: k} }

// filesOf is how many files a release has.
const filesOf = 4

// New makes a world whose members are all up, connected and empty, and releases
// that nobody has fetched yet.
func New(cfg Config, releases int) (*World, []*Release, error) {
	if cfg.Links == (Links{}) {
		cfg.Links = DefaultLinks
	}
	if cfg.Upstream == 0 {
		cfg.Upstream = time.Second
	}
	if cfg.ZipSize == 0 {
		cfg.ZipSize = 16 << 10
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	w := &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.Members))), net: newNetwork(cfg.Links), offices: map[peer.ID]string{},
		listings: map[verify.Digest][]byte{}, contents: map[verify.Digest]content{},
		sealed: map[[sha256.Size]byte]*verify.Signed{}, fetches: map[verify.Name]int{},
	}
	var all []*Release
	for i := range releases {
		r, err := w.release(i)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, r)
	}
	var hosts []*Host
	for i := range cfg.Members {
		m, err := w.member(i)
		if err != nil {
			return nil, nil, err
		}
		hosts = append(hosts, m.host)
	}
	w.net.link(hosts, false)
	for _, m := range w.members {
		m.start()
	}
	return w, all, nil
}

// release makes up a release.
func (w *World) release(i int) (*Release, error) {
	m := module.Version{Path: fmt.Sprintf("example.test/group%d/module%d", i%97, i), Version: "v1.0.0"}
	r := &Release{Module: m, mod: fmt.Appendf(nil, "module %s\n", m.Path)}
	random := rand.NewChaCha8([32]byte{byte(w.cfg.Seed), byte(i), byte(i >> 8), byte(i >> 16)})
	for n := range filesOf {
		data := make([]byte, w.cfg.ZipSize/filesOf)
		random.Read(data)
		f := verify.File{Name: fmt.Sprintf("%s@%s/file%d.go", m.Path, m.Version, n), Sum: verify.DigestOf(data)}
		size := int64(len(data))
		w.contents[f.Sum] = content{modzip.Raw{Sum: f.Sum, Method: zip.Store, CRC32: crc32.ChecksumIEEE(data), CompressedSize: size, Size: size}, data}
		r.files = append(r.files, f)
		r.size += size
	}
	l, err := verify.NewListing(r.files)
	if err != nil {
		return nil, err
	}
	text := l.Encode()
	r.root = verify.DigestOf(text)
	w.listings[r.root] = text
	return r, nil
}

func (w *World) member(i int) (*Member, error) {
	seed := sha256.Sum256(fmt.Appendf(nil, "member %d of %d", i, w.cfg.Seed))
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(seed[:]))
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	m := &Member{w: w, key: key, office: fmt.Sprintf("office%d", i), host: w.net.add(id, w.rng.Float64(), w.rng.Float64()), backend: newBackend(w)}
	w.members = append(w.members, m)
	w.ids = append(w.ids, id)
	w.offices[id] = m.office
	return m, nil
}

// intern returns the one copy of a statement.
func (w *World) intern(s *verify.Signed) *verify.Signed {
	sum := sha256.Sum256(s.Envelope)
	w.mu.Lock()
	defer w.mu.Unlock()
	if known := w.sealed[sum]; known != nil {
		return known
	}
	w.sealed[sum] = s
	return s
}

// upstream is a fetch from the world outside.
func (w *World) upstream(ctx context.Context, n verify.Name) error {
	w.mu.Lock()
	w.fetches[n]++
	w.mu.Unlock()
	select {
	case <-time.After(w.cfg.Upstream):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Fetches is how often a file was fetched from the world outside.
func (w *World) Fetches(n verify.Name) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fetches[n]
}

// Up returns the members that run, in the order of their making.
func (w *World) Up() []*Member {
	var up []*Member
	for _, m := range w.members {
		if m.x != nil {
			up = append(up, m)
		}
	}
	return up
}

// Vanish lets members fall silent at the same moment, as when the power goes. What
// they hold is lost to the mesh until they return.
func (w *World) Vanish(members ...*Member) error {
	var hosts []*Host
	for _, m := range members {
		hosts = append(hosts, m.host)
	}
	w.net.cut(hosts)
	var errs []error
	for _, m := range members {
		errs = append(errs, m.stop())
	}
	return errors.Join(errs...)
}

// Return brings members back with what they held.
func (w *World) Return(members ...*Member) {
	var hosts []*Host
	for _, m := range members {
		m.start()
		hosts = append(hosts, m.host)
	}
	w.net.link(hosts, true)
}

// Close stops every member.
func (w *World) Close() error {
	var errs []error
	for _, m := range w.Up() {
		errs = append(errs, m.stop())
	}
	return errors.Join(errs...)
}

// Copies is how many members that run hold each release's zip.
func (w *World) Copies(releases []*Release) map[*Release]int {
	copies := make(map[*Release]int, len(releases))
	for _, r := range releases {
		copies[r] = 0
	}
	for _, m := range w.Up() {
		m.backend.mu.RLock()
		for _, r := range releases {
			if m.backend.zips[r.root] {
				copies[r]++
			}
		}
		m.backend.mu.RUnlock()
	}
	return copies
}

var _ exchange.Backend = (*backend)(nil)

// view is the membership as every member sees it: all belong, and are connected
// unless they were noticed to be gone.
type view struct{ w *World }

func (v view) Members() []peer.ID { return v.w.ids }

func (v view) Connected() []peer.ID { return *v.w.net.linked.Load() }

func (v view) IsMember(p peer.ID) bool { return v.w.offices[p] != "" }

func (v view) Office(p peer.ID) string { return v.w.offices[p] }

// Member is one member of a world.
type Member struct {
	w       *World
	key     crypto.PrivKey
	office  string
	host    *Host
	backend *backend
	pulls   atomic.Int64 // zips that repair brought here

	x    *exchange.Exchange // nil while it does not run
	stop func() error
	wg   *sync.WaitGroup
	ctx  context.Context
}
