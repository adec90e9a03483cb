package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

const (
	privatePath = "example.test/private"
	publicPath  = "example.test/public"
	privateKey  = privatePath + " list"
	lookupKey   = "sum.example.test sumdb lookup/" + privatePath + "@v1.0.0"
)

// confided is a world in which all but the outsider may have a private module, and
// the outsider does what it likes.
type confided struct {
	*world
	holder, insider, outsider *office
	private, public           *release
	unrelated                 *release     // public, and requires nothing
	lookups                   atomic.Int32 // in the DHT, by all
}

// FindProvidersAsync implements Routing.
func (w *confided) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	w.lookups.Add(1)
	none := make(chan peer.AddrInfo)
	close(none)
	return none
}

func newConfided(t *testing.T) *confided {
	w := new(confided)
	var outsider atomic.Pointer[peer.ID]
	w.world = newWorld(t, 3, func(i int, c *Config) {
		c.Routing = w
		c.Near = func(verify.Name, int) []module.Version { return []module.Version{w.private.module, w.public.module} }
		if i != 2 {
			c.Share = func(p peer.ID, path string) bool {
				out := outsider.Load()
				return path != privatePath || (out != nil && p != *out)
			}
		}
	})
	w.holder, w.insider, w.outsider = w.offices[0], w.offices[1], w.offices[2]
	out := w.outsider.id()
	outsider.Store(&out)
	w.private = newRelease(t, privatePath, "v1.0.0", sources(1, 3))
	w.unrelated = newRelease(t, "example.test/unrelated", "v1.0.0", sources(3, 3))
	w.public = newRelease(t, publicPath, "v1.0.0", sources(2, 3))
	return w
}

// keep gives the holder everything about both modules.
func (w *confided) keep() (private *verify.Signed) {
	w.t.Helper()
	w.holder.admit(w.public)
	private = w.holder.admit(w.private)
	w.holder.admitMod(w.private.module, "module "+privatePath+"\n")
	w.holder.admitMod(w.unrelated.module, "module example.test/unrelated\n")
	w.holder.admitMod(w.public.module, "module "+publicPath+"\nrequire "+privatePath+" v1.0.0\n")
	for _, key := range []string{privateKey, lookupKey} {
		if err := w.holder.store.SetMutable(key, []byte("v1.0.0\n"), time.Now()); err != nil {
			w.t.Fatal(err)
		}
	}
	return private
}

// converse opens a stream to the holder, sends the messages and reads one answer.
func converse[T any](t *testing.T, from, to *office, id protocol.ID, messages ...any) (answer T) {
	t.Helper()
	l, stop, err := from.x.ask(t.Context(), to.id(), id, Client)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(errNotNeeded)
	l.idle = 30 * time.Second
	for _, m := range messages {
		if err := l.send(m, maxRequest); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.recv(&answer, maxEntry); err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestWhoMayNotHaveAModuleLearnsNothing asks for a private module at every
// protocol, as an insider, who is told, and as an outsider, who is not.
func TestWhoMayNotHaveAModuleLearnsNothing(t *testing.T) {
	w := newConfided(t)
	private := w.keep()
	zip, gomod := toWire(w.private.name(verify.Zip)), toWire(w.private.name(verify.Mod))
	unheld := toWire(verify.Name{Module: module.Version{Path: privatePath, Version: "v2.0.0+incompatible"}, Kind: verify.Mod})
	claimName := verify.Name{Module: module.Version{Path: privatePath, Version: "v1.1.0"}, Kind: verify.Zip}
	lease, err := w.holder.x.claimHere(t.Context(), claimed{name: claimName, key: claimKey(claimName), home: homeKey(claimName)})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Lease.Close()
	fetching := toWire(claimName)
	root := w.private.root
	for _, c := range []struct {
		name  string
		learn func(from *office) bool // whether it learns anything
	}{
		{"records in full", func(from *office) bool {
			return !converse[recordsEntry](t, from, w.holder, RecordsID, &recordsRequest{Full: []wireName{zip, gomod, unheld}}).End
		}},
		{"records in brief", func(from *office) bool {
			return !converse[recordsEntry](t, from, w.holder, RecordsID, &recordsRequest{Brief: []wireName{zip, gomod, unheld}}).End
		}},
		{"who fetches", func(from *office) bool {
			return !converse[recordsEntry](t, from, w.holder, RecordsID, &recordsRequest{Brief: []wireName{fetching}}).End
		}},
		{"related go.mod files", func(from *office) bool {
			reply, err := from.x.Records(t.Context(), []verify.Name{w.public.name(verify.Mod)}, RecordsOptions{Related: true})
			if err != nil {
				t.Fatal(err)
			}
			return len(reply.Related) > 0
		}},
		{"what came with a go.mod", func(from *office) bool {
			reply, err := from.x.Records(t.Context(), []verify.Name{w.unrelated.name(verify.Mod)}, RecordsOptions{Related: true, Near: true})
			if err != nil {
				t.Fatal(err)
			}
			return slices.Contains(reply.Related, w.private.module)
		}},
		{"a listing", func(from *office) bool {
			m := &filesOpen{Path: privatePath, Version: "v1.0.0", Root: root[:], Listing: true}
			return converse[filesOpened](t, from, w.holder, FilesID, m).Status != filesAbsent
		}},
		{"files without the listing", func(from *office) bool {
			m := &filesOpen{Path: privatePath, Version: "v1.0.0", Root: root[:]}
			return converse[filesOpened](t, from, w.holder, FilesID, m, &filesWant{Files: []uint32{0}}).Status != filesAbsent
		}},
		{"a listing as a dictionary", func(from *office) bool {
			public := w.public.root
			m := &filesOpen{Path: publicPath, Version: "v1.0.0", Root: public[:], Listing: true, Bases: [][]byte{root[:]}}
			return len(converse[filesOpened](t, from, w.holder, FilesID, m).Base) > 0
		}},
		{"a record pushed that is known", func(from *office) bool {
			return converse[pushReply](t, from, w.holder, PushID, &pushRecord{Envelope: private.Envelope}).Status != PushRefused
		}},
		{"a record pushed that conflicts", func(from *office) bool {
			n := w.private.name(verify.Mod)
			s := from.sign(n, verify.DigestMod([]byte("module other\n")), []byte("module other\n"), 13)
			return converse[pushReply](t, from, w.holder, PushID, &pushRecord{Envelope: s.Envelope}).Status != PushRefused
		}},
		{"a claim to a release", func(from *office) bool {
			return converse[claimReply](t, from, w.holder, ClaimID, &claimRequest{Name: &zip}).State != claimDeclined
		}},
		{"a claim to what is being fetched", func(from *office) bool {
			return converse[claimReply](t, from, w.holder, ClaimID, &claimRequest{Name: &fetching}).State != claimDeclined
		}},
		{"a claim by a fetcher", func(from *office) bool {
			return converse[claimReply](t, from, w.holder, ClaimID, &claimRequest{Name: &fetching, Fetching: true}).State != claimDeclined
		}},
		{"a claim to an answer", func(from *office) bool {
			return converse[claimReply](t, from, w.holder, ClaimID, &claimRequest{Key: privateKey, MaxAge: 3600}).State != claimDeclined
		}},
		{"an answer", func(from *office) bool {
			return !converse[answersEntry](t, from, w.holder, AnswersID, &answersRequest{Keys: []string{privateKey}}).End
		}},
		{"a lookup in a checksum database", func(from *office) bool {
			return !converse[answersEntry](t, from, w.holder, AnswersID, &answersRequest{Keys: []string{lookupKey}}).End
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.learn(w.outsider) {
				t.Error("the outsider learns of it")
			}
			if !c.learn(w.insider) {
				t.Error("the insider is told nothing")
			}
		})
	}
	disguised := *w.private
	disguised.module = w.public.module
	if _, err := w.outsider.fetch(t.Context(), &disguised, w.holder.id()); !errors.Is(err, ErrUnknown) {
		t.Errorf("pull under another name: %v, want ErrUnknown", err)
	}
}

// TestWhoMayNotLearnOfAModuleIsNotAsked has the holder and the insider do all that
// they do about a private module, and listens at the outsider.
func TestWhoMayNotLearnOfAModuleIsNotAsked(t *testing.T) {
	w := newConfided(t)
	var heard atomic.Int32
	for _, p := range protocols {
		w.outsider.host.SetStreamHandler(p.id, func(s network.Stream) {
			heard.Add(1)
			s.Reset()
		})
	}
	ctx := t.Context()
	x := w.holder.x
	n := w.private.name(verify.Zip)
	if _, err := x.Records(ctx, []verify.Name{n}, RecordsOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := x.Answers(ctx, privateKey, false); !errors.Is(err, ErrUnknown) {
		t.Errorf("answers: %v", err)
	}
	for i := range 20 { // so that the outsider would be at home for some
		key := fmt.Sprintf("%s query v0.%d", privatePath, i)
		c, err := x.ClaimAnswer(ctx, key, 0)
		if err != nil || c.Outcome != Fetch {
			t.Fatalf("claim: %+v, %v", c, err)
		}
		if err := c.Lease.Refuse(ctx, 404, "none"); err != nil {
			t.Error(err)
		}
	}
	private := w.keep()
	if _, err := x.Push(ctx, []*verify.Signed{private}, nil); err != nil {
		t.Error(err)
	}
	if _, err := x.PushTo(ctx, w.outsider.id(), []*verify.Signed{private}, nil); err != nil {
		t.Error(err)
	}
	lonely := *w.private
	lonely.root = verify.DigestOf([]byte("nobody has it"))
	if _, err := x.Pull(ctx, PullRequest{Module: lonely.module, Root: lonely.root, Holders: []peer.ID{w.outsider.id()},
		Stage: func(context.Context, []byte) ([]verify.File, error) { return nil, nil }}); err == nil {
		t.Error("pulled what nobody has")
	}
	if x.Public(privatePath) || !x.Public(publicPath) {
		t.Error("what not everybody may learn of is public, or what everybody may is not")
	}
	if n := heard.Load(); n != 0 {
		t.Errorf("the outsider was asked %d times", n)
	}
	if n := w.lookups.Load(); n != 0 {
		t.Errorf("%d lookups in the DHT", n)
	}
}

// TestCopiesGoToThoseWhoMayHaveThem repairs a private module that one office holds.
func TestCopiesGoToThoseWhoMayHaveThem(t *testing.T) {
	w := newConfided(t)
	private := w.holder.admit(w.private)
	w.repairing(func(verify.Name) *release { return w.private })
	eventually(t, "the insider has a copy", func() bool { return w.insider.store.HasZip(w.private.root) })
	if _, err := w.outsider.store.Record(private.Record.Name); err == nil {
		t.Error("the outsider was told of it")
	}
}
