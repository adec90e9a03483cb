package testnet

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
)

// TestScenarios runs the stories below testdata/scenario, or the one that
// MESHPROXY_STORY names, each of which keeps one
// promise or a few. A story begins with an upstream and a checksum database around
// testdata/world.txtar, plus a module large, and no office. After each step that
// changes anything the whole world is checked; see Net.Check.
//
//	office NAME online|offline [through=OFFICE] [role=admin] [nosumdb=PATTERN] [max=BYTES] [replicas=N]
//	            the first one founds the mesh, later ones join the oldest office, or OFFICE
//	token VAR OFFICE [role=admin] [uses=N] [ttl=TIME] [name=OFFICE]    an invitation
//	[!] enter NAME online|offline $VAR    join with it
//	halt, boot, reboot OFFICE...
//	links    before the first office: what they say to each other can be cut
//	cut, cut-way OFFICE OFFICE    both ways, or from the first to the second; heal    everything
//	stranger NAME online|offline    founds a mesh of its own
//	members OFFICE...    wait until these are all that each of them knows, and connected;
//	            members-now leaves out those that are away
//	revoke OFFICE WHO; rotate OFFICE [WHO]; leave OFFICE; withdraw OFFICE $VAR
//	get STATUS OFFICE FILE...    as greet@v1.0.0.zip, greet@list, greet@latest, greet@main.info
//	everyone STATUS FILE...    from each running office at the same time
//	[!] serves OFFICE FILE...    whatever else than 200 the answer is
//	try OFFICE|all FILE...    at the same time, and with trouble allowed: an answer may fail,
//	            but not as "not found" where there is an upstream, and what comes is right
//	copies N FILE    until so many running offices hold it, and no more; replicated:
//	            until that is no fewer than wanted, for every zip that any of them holds
//	keep NAME OFFICE FILE    what it is; kept NAME OFFICE FILE: it is still that
//	want OFFICE FILE WORD...    the answer has these words and, if it is a list, no more
//	until STATUS OFFICE FILE    ask until that is the answer; until-listed OFFICE FILE VERSION
//	holds, lacks OFFICE FILE    without asking anybody else
//	source OFFICE PREFIX [none]    whether answers came from there: store, peer, upstream
//	asked KIND N    what the upstream was asked since the last forget; once: no file twice
//	upstream stop|start|mend|forget|FAULT [KIND...]
//	publish MODULE@VERSION TEXT; unpublish MODULE@VERSION
//	flip OFFICE [any]    a bit in its store of the module large, while it is stopped, if there
//	            is any; until healed, its zips are not checked
//	scrub OFFICE FOUND|any    reads everything
//	conflicts OFFICE N
//	sums OFFICE FILE    pin what a go.sum says
//	go OFFICE ARGS...    the go command, in a module of its own, with an empty cache
func TestScenarios(t *testing.T) {
	params := stories()
	params.Dir = "testdata/scenario"
	if file := os.Getenv("MESHPROXY_STORY"); file != "" {
		params.Dir, params.Files = "", []string{file}
	}
	testscript.RunT(shim{t}, params)
}

// stories says in which world stories begin, and in which words they are told.
func stories() testscript.Params {
	return testscript.Params{
		Setup: func(env *testscript.Env) error {
			inner := env.T().(shim).T
			w := archiveWorld(inner)
			if err := w.Grow(1, outside.Shape{Path: largeModule, Versions: []string{"v1.0.0", "v1.1.0"}, Files: 20, Change: 10, Large: 300 << 10}); err != nil {
				return err
			}
			env.Values[storyKey{}] = &story{surroundings: surround(inner, w), t: inner}
			return nil
		},
		Cmds: verbs(),
	}
}

// shim gives a script its *testing.T.
type shim struct{ *testing.T }

// Run implements testscript.T.
func (s shim) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(shim{t}) })
}

// Parallel implements testscript.T: stories take turns, since each has whole
// offices.
func (s shim) Parallel() {}

// Verbose implements testscript.T.
func (s shim) Verbose() bool { return testing.Verbose() }

// largeModule is one whose zip is worth tearing and flipping.
const largeModule = "example.test/large"

type storyKey struct{}

// story is one script under way.
type story struct {
	*surroundings
	t    *testing.T
	mend []func()
}

// verb is a command of stories. It is about the world when it changes anything,
// which is then checked.
type verb struct {
	least   int
	changes bool
	do      func(s *story, ts *testscript.TestScript, neg bool, args []string)
}

func verbs() map[string]func(*testscript.TestScript, bool, []string) {
	out := map[string]func(*testscript.TestScript, bool, []string){}
	for name, v := range map[string]verb{
		"office": {2, true, (*story).office}, "token": {2, false, (*story).token}, "enter": {3, true, (*story).enter},
		"halt": {1, true, (*story).run}, "boot": {1, true, (*story).run}, "reboot": {1, true, (*story).run},
		"links": {0, false, (*story).link}, "cut": {2, true, (*story).cut}, "cut-way": {2, true, (*story).cut}, "heal": {0, true, (*story).heal},
		"members": {1, true, (*story).members}, "leave": {1, true, (*story).leave}, "withdraw": {2, false, (*story).withdraw},
		"revoke": {2, true, (*story).revoke}, "rotate": {1, true, (*story).rotate},
		"get": {3, true, (*story).get}, "everyone": {2, true, (*story).everyone}, "want": {3, false, (*story).want},
		"until": {3, true, (*story).until}, "holds": {2, false, (*story).holds}, "lacks": {2, false, (*story).holds},
		"source": {2, false, (*story).source}, "asked": {2, false, (*story).asked},
		"healed": {0, true, (*story).healed},
		"once":   {0, false, (*story).once},
		"try":    {2, true, (*story).try}, "copies": {2, true, (*story).copies}, "replicated": {0, true, (*story).replicated},
		"serves": {2, false, (*story).serves}, "until-listed": {3, true, (*story).untilListed}, "keep": {3, false, (*story).keep}, "kept": {3, false, (*story).keep},
		"members-now": {1, true, (*story).members}, "stranger": {2, true, (*story).stranger},
		"upstream": {1, false, (*story).upstreamDoes}, "publish": {2, false, (*story).publish}, "unpublish": {1, false, (*story).publish},
		"flip": {1, false, (*story).flip}, "scrub": {2, true, (*story).scrub},
		"conflicts": {2, false, (*story).conflicts}, "sums": {2, false, (*story).sums}, "go": {2, true, (*story).goCommand},
	} {
		out[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			s := ts.Value(storyKey{}).(*story)
			if len(args) < v.least {
				ts.Fatalf("%s: %d arguments, want at least %d", name, len(args), v.least)
			}
			v.do(s, ts, neg, append([]string{name}, args...))
			if v.changes {
				s.Check()
			}
			if s.t.Failed() {
				ts.Fatalf("the world is not as it should be after %s %s", name, strings.Join(args, " "))
			}
		}
	}
	return out
}

// named finds an office.
func (s *story) named(ts *testscript.TestScript, name string) *Office {
	i := slices.IndexFunc(s.Offices(), func(o *Office) bool { return o.Name == name })
	if i < 0 {
		ts.Fatalf("no office %s", name)
	}
	return s.Offices()[i]
}

// settings splits KEY=VALUE words; a key that is not known is an error.
func settings(ts *testscript.TestScript, words []string, known ...string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		if !slices.Contains(known, key) {
			ts.Fatalf("unknown setting %s, want one of %v", w, known)
		}
		out[key] = value
	}
	return out
}

func number(ts *testscript.TestScript, text string) int {
	n, err := strconv.Atoi(text)
	ts.Check(err)
	return n
}

// config is what an office is to be.
func (s *story) config(ts *testscript.TestScript, line string, words map[string]string) node.Config {
	c := s.offline()
	switch line {
	case "online":
		c = s.online()
	case "offline":
	default:
		ts.Fatalf("%s: want online or offline", line)
	}
	c.NoSumDB = words["nosumdb"]
	c.Refresh = time.Millisecond // what the upstream says now counts
	c.ScrubRate = -1             // scrub does it
	if max := words["max"]; max != "" {
		c.MaxSize = int64(number(ts, max))
	}
	if n := words["replicas"]; n != "" {
		c.Sharing.Replicas = number(ts, n)
		c.Sharing.Settle = time.Second // a story is no longer than a minute
	}
	return c
}

func (s *story) office(ts *testscript.TestScript, _ bool, args []string) {
	words := settings(ts, args[3:], "through", "role", "nosumdb", "max", "replicas")
	c := s.config(ts, args[2], words)
	if len(s.Offices()) == 0 {
		s.Found(args[1], c)
		return
	}
	through := s.Offices()[0]
	if name := words["through"]; name != "" {
		through = s.named(ts, name)
	}
	role := "member"
	if words["role"] != "" {
		role = words["role"]
	}
	s.Net.start(args[1], c, through.Invite(node.Invitation{Role: role, Office: args[1], TTL: time.Hour, Uses: 1}))
}

func (s *story) token(ts *testscript.TestScript, _ bool, args []string) {
	words := settings(ts, args[3:], "role", "uses", "ttl", "name")
	inv := node.Invitation{Role: "member", Office: words["name"], TTL: time.Hour, Uses: 1}
	if words["role"] != "" {
		inv.Role = words["role"]
	}
	if words["uses"] != "" {
		inv.Uses = number(ts, words["uses"])
	}
	if words["ttl"] != "" {
		var err error
		inv.TTL, err = time.ParseDuration(words["ttl"])
		ts.Check(err)
	}
	ts.Setenv(args[1], s.named(ts, args[2]).Invite(inv))
}

func (s *story) enter(ts *testscript.TestScript, neg bool, args []string) {
	c := s.config(ts, args[2], nil)
	if !neg {
		s.Net.start(args[1], c, args[3])
		return
	}
	c.Dir, c.Office, c.P2P, c.NoLAN = filepath.Join(s.dir, args[1]), args[1], []string{"/ip4/127.0.0.1/tcp/0"}, true
	n, err := node.New(s.t.Context(), c)
	ts.Check(err)
	defer n.Close()
	if _, err := n.Join(s.t.Context(), args[3]); err == nil {
		ts.Fatalf("%s joined", args[1])
	} else {
		fmt.Fprintln(ts.Stderr(), err)
	}
}

func (s *story) run(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		o := s.named(ts, name)
		if args[0] != "boot" {
			o.Stop()
		}
		if args[0] != "halt" {
			o.Restart()
		}
	}
}

// flip changes a bit in what a stopped office keeps of the large module.
func (s *story) flip(ts *testscript.TestScript, _ bool, args []string) {
	o := s.named(ts, args[1])
	if o.Running() {
		ts.Fatalf("%s runs", o.Name)
	}
	zipped, err := s.world.Release(module.Version{Path: largeModule, Version: "v1.0.0"}).Zip()
	ts.Check(err)
	r, err := zip.NewReader(bytes.NewReader(zipped), int64(len(zipped)))
	ts.Check(err)
	largest := slices.MaxFunc(r.File, func(a, b *zip.File) int { return int(a.CompressedSize64) - int(b.CompressedSize64) })
	raw, err := largest.OpenRaw()
	ts.Check(err)
	stream, err := io.ReadAll(raw)
	ts.Check(err)
	times, err := flipIn(o.config.Dir, stream[len(stream)/2:][:200])
	ts.Check(err)
	o.damaged = true
	if times != 1 && !slices.Contains(args[2:], "any") {
		ts.Fatalf("the large file is at %d places of %s", times, o.Name)
	}
}

// flipIn changes the first byte of a text in each file below dir.
func flipIn(dir string, text []byte) (times int, err error) {
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(data, text)
		if at < 0 {
			return nil
		}
		times++
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte{text[0] ^ 1}, int64(at))
		return err
	})
	return times, err
}
