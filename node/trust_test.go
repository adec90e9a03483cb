package node_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// tampered puts another content into the world for a module version, as a proxy does
// that lies, or a tag that was moved, and returns both h1 hashes.
func (a *around) tampered(m module.Version) (before, after string) {
	a.t.Helper()
	before = a.h1(m)
	if _, err := a.world.AddFiles(m, map[string][]byte{
		"go.mod": []byte("module " + m.Path + "\n"), "a.go": []byte("package evil\n"),
	}); err != nil {
		a.t.Fatal(err)
	}
	return before, a.h1(m)
}

func (a *around) h1(m module.Version) string {
	a.t.Helper()
	h1, err := a.world.Release(m).H1()
	if err != nil {
		a.t.Fatal(err)
	}
	return h1
}

func (a *around) conflicts(o *testnet.Office) []node.Conflict {
	a.t.Helper()
	list, err := o.Node().Conflicts(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	return list
}

// wantConflict waits until an office shows one conflict about a file, between these
// two contents.
func (a *around) wantConflict(o *testnet.Office, name, kept, refused string) node.Conflict {
	a.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		list := a.conflicts(o)
		for _, c := range list {
			if c.Name == name && c.Kept.Digest == kept && c.Other.Digest == refused {
				// Another one may come in between.
				if st := o.Status(); st.Conflicts != len(list) && len(a.conflicts(o)) == len(list) {
					a.t.Errorf("status counts %d conflicts, there are %d", st.Conflicts, len(list))
				}
				return c
			}
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("office %s: no conflict about %s between %s and %s: %+v", o.Name, name, kept, refused, list)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var (
	tagged1  = module.Version{Path: "example.test/tagged", Version: "v1.0.0"}
	private1 = module.Version{Path: "example.test/private/x", Version: "v1.0.0"}
)

const privateZip = "/example.test/private/x/@v/v1.0.0.zip"

func TestConflicts(t *testing.T) {
	quiet := func(c node.Config) node.Config { c.Log = new(logBook).logger(); return c }
	t.Run("between an upstream and the checksum database", func(t *testing.T) {
		a := newAround(t)
		ask(a, a.db, "/lookup/example.test/tagged@v1.0.0") // the database makes up its mind
		good, evil := a.tampered(tagged1)
		one := a.Found("one", quiet(a.online()))
		a.wantText(one, 403, tagged+"v1.0.0.zip", good, evil)
		c := a.wantConflict(one, "example.test/tagged@v1.0.0.zip", good, evil)
		if !strings.Contains(c.Kept.Source, "checksum database sums.test") || !strings.Contains(c.Other.Source, "from") {
			t.Errorf("the sides are %q and %q", c.Kept.Source, c.Other.Source)
		}
		one.Restart()
		a.wantConflict(one, "example.test/tagged@v1.0.0.zip", good, evil)
	})
	t.Run("between a pin and the checksum database", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", quiet(a.online()))
		good := a.h1(tagged1)
		const evil = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
		if _, err := one.Node().Trust(t.Context(), node.GoSum{Origin: "go.sum", Text: []byte("example.test/tagged v1.0.0 " + evil + "\n")}); err != nil {
			t.Fatal(err)
		}
		a.wantText(one, 403, tagged+"v1.0.0.zip", "pin go.sum:1 says "+evil, good)
		a.wantConflict(one, "example.test/tagged@v1.0.0.zip", evil, good)
		one.Restart()
		a.want(one, 403, tagged+"v1.0.0.zip")
	})
	t.Run("between a pin and what is held", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", quiet(a.online()))
		good := a.h1(tagged1)
		a.want(one, 200, tagged+"v1.0.0.zip")
		const evil = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
		_, err := one.Node().Trust(t.Context(), node.GoSum{Origin: "go.sum", Text: []byte("example.test/tagged v1.0.0 " + evil + "\n")})
		if err == nil || !strings.Contains(err.Error(), good) {
			t.Errorf("trust says %v, want the hash that is held", err)
		}
		a.wantText(one, 403, tagged+"v1.0.0.zip", evil, good)
		a.wantConflict(one, "example.test/tagged@v1.0.0.zip", evil, good)
		if _, err := one.Node().Distrust(t.Context(), tagged1); err != nil {
			t.Fatal(err)
		}
		a.want(one, 200, tagged+"v1.0.0.zip")
	})
	t.Run("between two offices that fetched before and after a tag was moved", func(t *testing.T) {
		a := newAround(t)
		cfg := quiet(a.online())
		cfg.NoSumDB = "example.test/private"
		one := a.Found("one", cfg)
		first := a.want(one, 200, privateZip)
		infoOne := a.want(one, 200, strings.Replace(privateZip, ".zip", ".info", 1))
		before, after := a.tampered(private1)
		two := a.Found("two", cfg)
		second := a.want(two, 200, privateZip)
		infoTwo := a.want(two, 200, strings.Replace(privateZip, ".zip", ".info", 1))
		if first == second || infoOne == infoTwo {
			t.Fatal("the tag was not moved")
		}
		a.joins(two, one)
		a.upstream.Stop()
		a.Settle()
		name := "example.test/private/x@v1.0.0.zip"
		c := a.wantConflict(two, name, after, before)
		if c.Kept.Office != "two" || c.Other.Office != "one" || len(c.Other.Evidence) == 0 {
			t.Errorf("the conflict is between %+v and %+v", c.Kept, c.Other)
		}
		for range 3 { // each keeps what it had, and nothing flaps
			if a.want(one, 200, privateZip) != first || a.want(two, 200, privateZip) != second {
				t.Fatal("an office changed its mind")
			}
			if a.want(one, 200, strings.Replace(privateZip, ".zip", ".info", 1)) != infoOne {
				t.Fatal("an .info changed")
			}
		}
	})
}

// joins enrols an office in the mesh of another.
func (a *around) joins(o, mesh *testnet.Office) {
	a.t.Helper()
	token := mesh.Invite(node.Invitation{Role: "member", TTL: patience, Uses: 1})
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	if _, err := o.Node().Join(ctx, token); err != nil {
		a.t.Fatal(err)
	}
}

// chattering is an office that says what goes wrong to a book, and not to the test.
func chattering(c node.Config) (node.Config, *logBook) {
	b := new(logBook)
	c.Log = b.logger()
	return c, b
}

func TestApart(t *testing.T) {
	a := newAround(t)
	cfg, _ := chattering(a.online())
	cfg.NoSumDB = "example.test/private"
	one := a.Found("one", cfg)
	two := a.Join("two", one, cfg)
	a.Settle()
	two.Stop()
	first := a.want(one, 200, privateZip)
	before, after := a.tampered(private1)
	one.Stop()
	two.Restart()
	second := a.want(two, 200, privateZip)
	one.Restart()
	a.Settle()
	const name = "example.test/private/x@v1.0.0.zip"
	a.wantConflict(one, name, before, after)
	a.wantConflict(two, name, after, before)
	if a.want(one, 200, privateZip) != first || a.want(two, 200, privateZip) != second {
		t.Error("an office changed its mind")
	}
}

func TestDatabaseForks(t *testing.T) {
	t.Run("two offices are shown different histories", func(t *testing.T) {
		a := newAround(t)
		cfg, _ := chattering(a.online())
		one := a.Found("one", cfg)
		a.want(one, 200, tagged+"v1.0.0.zip")
		// The same key signs another history for the second office.
		fork := a.db.Fork()
		if err := fork.Fill(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		up, err := outside.NewServer(outside.Proxy(a.world, fork))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(up.Stop)
		forked, book := chattering(a.online())
		forked.Upstream = up.URL()
		two := a.Found("two", forked)
		a.want(two, 200, tagged+"v1.1.0.zip")
		a.joins(two, one)
		deadline := time.Now().Add(patience)
		for len(one.Status().Alarms)+len(two.Status().Alarms) == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("no alarm about two histories:\n%s", book)
			}
			time.Sleep(20 * time.Millisecond)
		}
		alarmed := one
		if len(two.Status().Alarms) > 0 {
			alarmed = two
		}
		list := a.conflicts(alarmed)
		if len(list) == 0 || list[len(list)-1].Name != "checksum database sums.test" && list[0].Name != "checksum database sums.test" {
			t.Errorf("conflicts do not show the two histories: %+v", list)
		}
		alarmed.Restart()
		if len(alarmed.Status().Alarms) == 0 {
			t.Error("the alarm was forgotten")
		}
	})
}

func TestDatabases(t *testing.T) {
	t.Run("the database is not told of private modules", func(t *testing.T) {
		a := newAround(t)
		cfg := a.online()
		cfg.NoSumDB = "example.test/private"
		one := a.Found("one", cfg)
		a.wantText(one, 403, "/sumdb/sums.test/lookup/example.test/private/x@v1.0.0", "GONOSUMDB")
		a.wantCounts(map[outside.Kind]int{outside.Lookup: 0})
	})
	t.Run("several databases, each for its modules", func(t *testing.T) {
		a := newAround(t)
		own, err := a.world.Database("own.test")
		if err != nil {
			t.Fatal(err)
		}
		up, err := outside.NewServer(own)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(up.Stop)
		cfg := a.online()
		cfg.SumDB += "; " + own.SpecAt(up.URL()) + " only=example.test/private"
		one := a.Found("one", cfg)
		a.want(one, 200, privateZip)
		a.want(one, 200, tagged+"v1.0.0.zip")
		for _, r := range one.Releases() {
			want := "sumdb sums.test"
			if strings.HasPrefix(r.Path, "example.test/private") {
				want = "sumdb own.test"
			}
			if r.Vouched != want {
				t.Errorf("%s is vouched for by %s, want %s", r.Path, r.Vouched, want)
			}
		}
		if got := up.Counts()[outside.Lookup]; got != 1 {
			t.Errorf("the own database saw %d lookups, want 1", got)
		}
	})
}

// TestOfflineTrust is about an office with no way to any database.
func TestOfflineTrust(t *testing.T) {
	t.Run("public modules by proof, private ones by a member's word", func(t *testing.T) {
		a := newAround(t)
		cfg := a.online()
		cfg.NoSumDB = "example.test/private"
		one := a.Found("one", cfg)
		a.want(one, 200, tagged+"v1.0.0.zip")
		a.want(one, 200, privateZip)
		away := a.offline()
		away.NoSumDB = cfg.NoSumDB
		two := a.Join("two", one, away)
		a.Settle()
		a.upstream.Stop()
		a.want(two, 200, tagged+"v1.0.0.zip")
		a.want(two, 200, privateZip)
		a.wantText(two, 200, "/sumdb/sums.test/lookup/example.test/tagged@v1.0.0", "h1:")
	})
	t.Run("what is private there and public here is refused, with the reason", func(t *testing.T) {
		a := newAround(t)
		cfg := a.online()
		cfg.NoSumDB = "example.test/private"
		one := a.Found("one", cfg)
		a.want(one, 200, privateZip)
		two := a.Join("two", one, a.offline()) // to this one every module is public
		a.Settle()
		a.upstream.Stop()
		a.wantText(two, 503, privateZip, "no proof from sums.test")
	})
	t.Run("a revoked member's word counts no more, unless another one vouches again", func(t *testing.T) {
		a := newAround(t)
		cfg, _ := chattering(a.online())
		cfg.NoSumDB = "example.test/private"
		one := a.Found("one", cfg)
		ex := a.Join("ex", one, cfg)
		a.Settle()
		a.want(ex, 200, privateZip)
		a.want(one, 200, privateZip) // from ex, whose signature it keeps
		ex.Stop()
		if _, err := one.Node().Revoke(t.Context(), node.Revocation{Who: "ex", Reason: "gone"}); err != nil {
			t.Fatal(err)
		}
		a.upstream.Stop()
		away, _ := chattering(a.offline())
		away.NoSumDB = cfg.NoSumDB
		two := a.Join("two", one, away)
		a.waitConnected(two, 1)
		a.eventually(two, 200, privateZip)
		for _, r := range two.Releases() {
			if r.Path == private1.Path && (r.Office != "ex" || r.Source != "mesh") {
				t.Errorf("%s: fetched by %s from %s; want the office that did, and that the mesh vouches", r.Path, r.Office, r.Source)
			}
		}
	})
}
