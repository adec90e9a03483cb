package node_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/verify"
)

// behaviour is one way to lie.
type behaviour struct {
	name  string
	named bool // an honest office would not do so, and the log says who did
	// patient is for one who does nothing that could be told from a slow line.
	patient bool
	lies    lies
}

// file makes lies about the bytes of files.
func file(f func(l *liar, f store.RawFile, data []byte) (store.RawFile, io.Reader)) lies {
	return lies{raw: f}
}

// record makes lies about records.
func record(f func(l *liar, s *verify.Signed) *verify.Signed) lies { return lies{record: f} }

// other is the content that a liar would like to see used.
func other(r verify.Record) verify.Record {
	r.Vouch = verify.Vouch{By: verify.ByMember}
	switch r.Name.Kind {
	case verify.Info:
		r.Data = bytes.Replace(r.Data, []byte("2024"), []byte("2025"), 1)
		r.Digest = verify.DigestOf(r.Data)
	case verify.Mod:
		r.Data = append(bytes.Clone(r.Data), "\n// evil\n"...)
		r.Digest = verify.DigestMod(r.Data)
	default:
		r.Digest[0] ^= 1
	}
	r.Size = max(r.Size, int64(len(r.Data)))
	if r.Name.Kind != verify.Zip {
		r.Size = int64(len(r.Data))
	}
	return r
}

func behaviours(a *around) []behaviour {
	stranger := newKey(a.t)
	// A database of the liar's own, of the same name, that says what it likes.
	false1, err := a.world.Database("sums.test")
	if err != nil {
		a.t.Fatal(err)
	}
	old := ask(a, a.db, "/latest") // of before anybody asked it for these modules
	bomb()                         // to make one takes longer than a client waits for it
	return []behaviour{
		{name: "wrong bytes", named: true, lies: file(func(_ *liar, f store.RawFile, data []byte) (store.RawFile, io.Reader) {
			data[len(data)/2] ^= 1
			return f, bytes.NewReader(data)
		})},
		{name: "truncated", lies: file(func(_ *liar, f store.RawFile, data []byte) (store.RawFile, io.Reader) {
			return f, bytes.NewReader(data[:len(data)/2])
		})},
		{name: "endless", named: true, lies: file(func(_ *liar, f store.RawFile, _ []byte) (store.RawFile, io.Reader) {
			f.CompressedSize, f.Size = 1<<40, 1<<40
			return f, zeros{}
		})},
		{name: "wrong file", named: true, lies: file(func(l *liar, f store.RawFile, _ []byte) (store.RawFile, io.Reader) {
			text := []byte("module example.test/other\n")
			f.Method, f.Size, f.CompressedSize = 0, int64(len(text)), int64(len(text))
			return f, bytes.NewReader(text)
		})},
		{name: "bomb", named: true, lies: file(func(_ *liar, f store.RawFile, _ []byte) (store.RawFile, io.Reader) {
			b := bomb()
			f.Method, f.CompressedSize = 8, int64(len(b))
			return f, bytes.NewReader(b)
		})},
		{name: "slow drip", patient: true, lies: file(func(_ *liar, f store.RawFile, data []byte) (store.RawFile, io.Reader) {
			return f, drip{bytes.NewReader(data)}
		})},
		{name: "listing of another module", named: true, lies: lies{listing: func(_ *liar, text []byte) ([]byte, error) {
			// Another one for each listing: the difference of two that are wrong in the same
			// way makes the right one of a right one.
			return bytes.Replace(text, []byte("/a.go\n"), fmt.Appendf(nil, "/%x.go\n", verify.DigestOf(text)), 1), nil
		}}},
		{name: "has nothing, after it said that it has", lies: lies{listing: func(*liar, []byte) ([]byte, error) {
			return nil, store.ErrNotFound
		}}},
		{name: "wrong record without a proof", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			if s.Record.Name.Kind == verify.Info {
				return s // nobody but a member vouches for these
			}
			return l.seal(other(s.Record), l.key)
		})},
		{name: "proof that leads nowhere", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			if s.Record.Name.Kind == verify.Info {
				return s
			}
			r := s.Record
			p := *r.Vouch.Proof
			p.Path = bytes.Clone(p.Path)
			p.Path[0] ^= 1
			r.Vouch.Proof = &p
			return l.seal(r, l.key)
		})},
		{name: "forged proof", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			if s.Record.Name.Kind == verify.Info {
				return s
			}
			r := other(s.Record)
			p := *s.Record.Vouch.Proof
			p.Text = bytes.ReplaceAll(p.Text, []byte(s.Record.Digest.H1()), []byte(r.Digest.H1()))
			r.Vouch = verify.Vouch{By: verify.BySumDB, Database: s.Record.Vouch.Database, Proof: &p}
			return l.seal(r, l.key)
		})},
		{name: "tree head of another key", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			if s.Record.Name.Kind == verify.Info {
				return s
			}
			r := s.Record
			p := *r.Vouch.Proof
			p.TreeHead = ask(a, false1, "/latest")
			r.Vouch.Proof = &p
			return l.seal(r, l.key)
		})},
		{name: "stale tree head", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			if s.Record.Name.Kind == verify.Info {
				return s
			}
			r := s.Record
			p := *r.Vouch.Proof
			p.TreeHead = old // signed by the right key, and without the record
			r.Vouch.Proof = &p
			return l.seal(r, l.key)
		})},
		{name: "replayed record of another version", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			n := s.Record.Name
			n.Module.Version = map[string]string{"v1.0.0": "v1.1.0", "v1.1.0": "v1.0.0"}[n.Module.Version]
			replayed, err := l.store.Record(n)
			if err != nil {
				return s // the liar has not learned it yet
			}
			return replayed
		})},
		{name: "record of another mesh", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			r := s.Record
			r.Mesh = "another mesh"
			return l.seal(r, l.key)
		})},
		{name: "record for another name", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			r := s.Record
			r.Name.Module.Version = "v1.9.9"
			if r.Name.Kind == verify.Info {
				r.Data = bytes.Replace(r.Data, []byte(s.Record.Name.Module.Version), []byte("v1.9.9"), 1)
				r.Digest, r.Size = verify.DigestOf(r.Data), int64(len(r.Data))
			}
			r.Vouch = verify.Vouch{By: verify.ByMember}
			return l.seal(r, l.key)
		})},
		{name: "signer who is no member", named: true, lies: record(func(l *liar, s *verify.Signed) *verify.Signed {
			r := other(s.Record)
			return l.seal(r, stranger)
		})},
		{name: "broken signature", named: true, lies: record(func(_ *liar, s *verify.Signed) *verify.Signed {
			broken := *s
			broken.Envelope = bytes.Clone(s.Envelope)
			broken.Envelope[len(broken.Envelope)-1] ^= 1
			return &broken
		})},
		{name: "not a record at all", named: true, lies: record(func(_ *liar, s *verify.Signed) *verify.Signed {
			broken := *s
			broken.Envelope = bytes.Repeat([]byte{0xa5}, 1000)
			return &broken
		})},
	}
}

// TestAdversary puts a member that lies next to an honest one. The client, who has
// no upstream, never gets a byte that is not the honest one's; it gets that one's
// answer while it is in reach; and the log names the liar.
func TestAdversary(t *testing.T) {
	names := behaviours(newAround(t))
	for i := range names {
		t.Run(names[i].name, func(t *testing.T) {
			a := newAround(t)
			adversary(t, a, behaviours(a)[i])
		})
	}
}

func adversary(t *testing.T, a *around, b behaviour) {
	both := module.Version{Path: "example.test/tagged", Version: "v1.0.0"}
	alone := module.Version{Path: "example.test/tagged", Version: "v1.1.0"}
	honest := a.Found("honest", a.online())
	if err := a.db.Fill(t.Context(), 10); err != nil { // so that proofs have a path
		t.Fatal(err)
	}
	good := map[string]string{}
	for _, m := range []module.Version{both, alone} {
		for _, path := range files(t, m) {
			good[path] = a.want(honest, 200, path)
		}
	}
	liar := newLiar(t, honest, b.lies)
	liar.learn(both)
	liar.learn(alone)
	log := new(logBook)
	cfg := a.offline()
	cfg.Log = log.logger()
	client := a.Join("client", honest, cfg)
	a.waitConnected(client, 2)
	for _, path := range files(t, both) {
		a.eventually(client, 200, path)
		if got := a.want(client, 200, path); got != good[path] {
			t.Errorf("%s: the client got something else than the honest office has", path)
		}
	}
	honest.Stop()
	if !b.patient {
		for _, path := range files(t, alone) {
			status, body, err := client.Get(path)
			if err == nil && status == 200 && string(body) != good[path] {
				t.Errorf("%s: the client got what the liar made up", path)
			}
		}
	}
	if b.named && !log.names(liarName) {
		t.Errorf("the log does not name the liar:\n%s", log)
	}
	told(t, client)
	honest.Restart()
	for _, path := range files(t, alone) {
		a.eventually(client, 200, path)
		if got := a.want(client, 200, path); got != good[path] {
			t.Errorf("%s: the client got something else than the honest office has", path)
		}
	}
}

// told checks that an office says what came from others, and that its health names
// those that lied.
func told(t *testing.T, o *testnet.Office) {
	t.Helper()
	peers, err := o.Node().Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	health, err := o.Node().Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var received int64
	for _, p := range peers {
		received += p.Received
		named := slices.ContainsFunc(health.Details, func(f node.Finding) bool { return f.Check == "peer "+p.Office })
		if p.Lies > 0 && !named {
			t.Errorf("%s lied %d times, health says: %+v", p.Office, p.Lies, health)
		}
	}
	if received == 0 {
		t.Error("a zip came from another office, and none is said to have sent anything")
	}
}

func files(t *testing.T, m module.Version) []string {
	t.Helper()
	var paths []string
	for _, kind := range []string{"zip", "mod", "info"} {
		path, err := testnet.FilePath(m, kind)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}
