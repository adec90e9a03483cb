package node_test

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/verify"
)

// liar is a member of the mesh with a host, a credential and a store like any
// other, which learns from an honest office what there is, and then answers as its
// lies say.
type liar struct {
	t     *testing.T
	mesh  *mesh.Mesh
	key   crypto.PrivKey
	store *store.Store
	x     *exchange.Exchange
	lies  lies
}

// lies are what it says instead of the truth. A nil one is honest.
type lies struct {
	record  func(l *liar, s *verify.Signed) *verify.Signed
	raw     func(l *liar, f store.RawFile, data []byte) (store.RawFile, io.Reader)
	listing func(l *liar, text []byte) ([]byte, error)
	answer  func(l *liar, key string) ([]byte, error)
}

const liarName = "pinocchio"

// liarMembers is the mesh as the exchange wants to see it.
type liarMembers struct{ *mesh.Mesh }

func (m liarMembers) Office(p peer.ID) string { return m.OfficeOf(p) }

// newLiar enrols a liar in the mesh of an office.
func newLiar(t *testing.T, through *testnet.Office, l lies) *liar {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir(), store.Options{ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	m, err := mesh.New(mesh.Config{Key: key, Office: liarName, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoLAN: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	token := through.Invite(node.Invitation{Role: "member", Office: liarName, TTL: time.Hour, Uses: 1})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.Join(ctx, token); err != nil {
		t.Fatal(err)
	}
	p := &liar{t: t, mesh: m, key: key, store: s, lies: l}
	p.x = exchange.New(exchange.Config{Host: m.Host(), Members: liarMembers{m}, Backend: p, Log: quiet})
	run, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(run) }()
	t.Cleanup(func() {
		end()
		<-done
		for _, c := range []io.Closer{p.x, m, s} {
			if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
	return p
}

// learn gets a module version, all three files, from the honest offices.
func (l *liar) learn(m module.Version) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	var names []verify.Name
	for _, k := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		names = append(names, verify.Name{Module: m, Kind: k})
	}
	for {
		reply, err := l.x.Records(ctx, names, exchange.RecordsOptions{All: true})
		if err == nil && l.keep(ctx, reply) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			l.t.Fatalf("cannot learn %s: %v", m, err)
		}
	}
}

func (l *liar) keep(ctx context.Context, reply *exchange.Reply) bool {
	for _, f := range reply.Found {
		if len(f.Records) == 0 {
			return false
		}
		rec := f.Records[0]
		if f.Name.Kind != verify.Zip {
			if err := l.store.Commit(ctx, rec, nil); err != nil {
				l.t.Fatal(err)
			}
			continue
		}
		var staged *store.Staged
		_, err := l.x.Pull(ctx, exchange.PullRequest{
			Module: f.Name.Module, Root: rec.Record.Digest, Holders: f.Holders, Size: rec.Record.Size,
			Stage: func(ctx context.Context, listing []byte) (missing []verify.File, err error) {
				if staged, err = l.store.StageListing(ctx, f.Name.Module, rec.Record.Digest, listing); err != nil {
					return nil, err
				}
				return staged.Missing()
			},
		})
		if staged != nil {
			defer staged.Close()
		}
		if err != nil {
			return false
		}
		if err := l.store.Commit(ctx, rec, staged); err != nil {
			l.t.Fatal(err)
		}
	}
	return true
}

// seal makes a signed record of what the liar has made up.
func (l *liar) seal(r verify.Record, key crypto.PrivKey) *verify.Signed {
	s, err := verify.Seal(&r, key)
	if err != nil {
		panic(err) // the liar's own mistake
	}
	return s
}

// Record implements exchange.Backend.
func (l *liar) Record(n verify.Name) (*verify.Signed, error) {
	s, err := l.store.Record(n)
	if err == nil && l.lies.record != nil {
		s = l.lies.record(l, s)
	}
	return s, err
}

// HasZip implements exchange.Backend.
func (l *liar) HasZip(verify.Digest) bool { return true }

// Listing implements exchange.Backend.
func (l *liar) Listing(root verify.Digest) ([]byte, error) {
	text, err := l.store.Listing(root)
	if err == nil && l.lies.listing != nil {
		return l.lies.listing(l, text)
	}
	return text, err
}

// OpenRaw implements exchange.Backend.
func (l *liar) OpenRaw(sum verify.Digest) (store.RawFile, io.ReadCloser, error) {
	f, r, err := l.store.OpenRaw(sum)
	if err != nil || l.lies.raw == nil {
		return f, r, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return f, nil, err
	}
	f, body := l.lies.raw(l, f, data)
	return f, io.NopCloser(body), nil
}

// PutRaw implements exchange.Backend.
func (l *liar) PutRaw(ctx context.Context, f store.RawFile, r io.Reader) error {
	return l.store.PutRaw(ctx, f, r)
}

// PutContents implements exchange.Backend.
func (l *liar) PutContents(ctx context.Context, contents []modzip.Content) error {
	return l.store.PutContents(ctx, contents)
}

// Accept implements exchange.Backend: it takes everything and keeps nothing.
func (l *liar) Accept(context.Context, peer.ID, *verify.Signed) error { return nil }

// Answer implements exchange.Backend.
func (l *liar) Answer(key string) ([]byte, time.Time, error) {
	if l.lies.answer == nil {
		return nil, time.Time{}, store.ErrNotFound
	}
	value, err := l.lies.answer(l, key)
	return value, time.Now().Add(time.Hour), err // the newest of all
}

// KeepAnswer implements exchange.Backend.
func (l *liar) KeepAnswer(context.Context, peer.ID, string, []byte, time.Time) error { return nil }

// bomb is a stream of some KiB that inflates to 64 MiB.
var bomb = sync.OnceValue(func() []byte { return bombOf(64 << 20) })

// bombOf is a stream of a few bytes that inflates to so many.
func bombOf(size int) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err == nil {
		_, err = w.Write(make([]byte, size))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// zeros is a stream without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// drip gives a byte now and then.
type drip struct{ r io.Reader }

func (d drip) Read(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return d.r.Read(p[:1])
}

// logBook keeps what an office logs.
type logBook struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// names reports whether a line that is a warning or worse names somebody.
func (b *logBook) names(who string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		if strings.Contains(line, who) && (strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")) {
			return true
		}
	}
	return false
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ask asks a checksum database itself.
func ask(a *around, db *outside.Database, path string) []byte {
	rec := httptest.NewRecorder()
	db.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	if rec.Code != http.StatusOK {
		a.t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	return rec.Body.Bytes()
}

// waitConnected waits until an office is connected to so many others.
func (a *around) waitConnected(o *testnet.Office, n int) {
	a.t.Helper()
	deadline := time.Now().Add(patience)
	for o.Status().Connected < n {
		if time.Now().After(deadline) {
			a.t.Fatalf("office %s is connected to %d others, want %d", o.Name, o.Status().Connected, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
