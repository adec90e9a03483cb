package testnet

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/toxic"
)

// file is what greet@v1.0.0.zip and the like name.
type file struct {
	path    string           // of the URL
	kind    string           // info, mod, zip or list, latest
	release *outside.Release // nil unless the world has it
}

func (s *story) file(ts *testscript.TestScript, text string) file {
	name, rest, ok := strings.Cut(text, "@")
	if !ok {
		ts.Fatalf("file %s: want MODULE@VERSION.KIND", text)
	}
	name = "example.test/" + name
	escaped, err := module.EscapePath(name)
	ts.Check(err)
	switch rest {
	case "list":
		return file{path: "/" + escaped + "/@v/list", kind: rest}
	case "latest":
		return file{path: "/" + escaped + "/@latest", kind: rest}
	}
	dot := strings.LastIndex(rest, ".")
	version, kind := rest[:dot], rest[dot+1:]
	f := file{path: "/" + escaped + "/@v/" + version + "." + kind, kind: kind}
	f.release = s.world.Release(module.Version{Path: name, Version: version})
	return f
}

// ask gets a file and compares what comes with the truth.
func (s *story) ask(o *Office, f file, prefix string) (int, []byte, error) {
	status, body, err := o.Get(prefix + f.path)
	if err == nil && status == http.StatusOK && f.release != nil {
		err = same(f.release, f.kind, body)
	}
	return status, body, err
}

func (s *story) get(ts *testscript.TestScript, _ bool, args []string) {
	want, o := number(ts, args[1]), s.named(ts, args[2])
	for _, name := range args[3:] {
		status, body, err := s.ask(o, s.file(ts, name), "")
		if err != nil || status != want {
			ts.Fatalf("%s: %s: status %d, want %d, %v: %.300s", o.Name, name, status, want, err, body)
		}
	}
}

func (s *story) serves(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args[2:] {
		status, body, err := s.ask(s.named(ts, args[1]), s.file(ts, name), "")
		if ok := err == nil && status == http.StatusOK; ok == neg {
			ts.Fatalf("%s: %s: status %d, %v: %.300s", args[1], name, status, err, body)
		}
	}
}

// try asks for files that exist, at an office or at all, while anything may be broken.
func (s *story) try(ts *testscript.TestScript, _ bool, args []string) {
	var all sync.WaitGroup
	for _, o := range s.Offices() {
		if !o.Running() || args[1] != "all" && args[1] != o.Name {
			continue
		}
		for _, name := range args[2:] {
			f := s.file(ts, name)
			if f.release == nil {
				ts.Fatalf("the world has no %s", name)
			}
			all.Go(func() {
				status, body, err := o.Get(f.path)
				switch {
				case err != nil: // cut off, as the upstream was
				case (status == http.StatusNotFound || status == http.StatusGone) && o.config.Upstream != "off":
					s.t.Errorf("%s says that %s does not exist: %.300s", o.Name, name, body)
				case status == http.StatusOK:
					if err := same(f.release, f.kind, body); err != nil {
						s.t.Errorf("%s: %s: %v", o.Name, name, err)
					}
				}
			})
		}
	}
	all.Wait()
}

// same compares an answer with the truth.
func same(r *outside.Release, kind string, body []byte) error {
	switch kind {
	case "info":
		if string(body) != string(r.Info) {
			return fmt.Errorf("info %q, want %q", body, r.Info)
		}
		return nil
	case "mod":
		if string(body) != string(r.Mod) {
			return fmt.Errorf("go.mod %q, want %q", body, r.Mod)
		}
		return nil
	}
	want, err := r.H1()
	if err != nil {
		return err
	}
	if got, err := outside.HashZip(body); err != nil || got != want {
		return fmt.Errorf("zip hashes to %s, want %s: %w", got, want, err)
	}
	return nil
}

func (s *story) copies(ts *testscript.TestScript, _ bool, args []string) {
	want, f := number(ts, args[1]), s.file(ts, args[2])
	eventually(ts, func() string {
		if holders := s.Copies(f.path); len(holders) != want {
			return fmt.Sprintf("%s is held by %v, want %d", args[2], holders, want)
		}
		return ""
	})
}

// keep notes an answer, and kept compares another one with it.
func (s *story) keep(ts *testscript.TestScript, _ bool, args []string) {
	status, body, err := s.named(ts, args[2]).Get(s.file(ts, args[3]).path)
	if err != nil || status != http.StatusOK {
		ts.Fatalf("%s: %s: status %d, %v: %.300s", args[2], args[3], status, err, body)
	}
	if args[0] == "keep" {
		ts.Setenv(args[1], fmt.Sprintf("%x", sha256.Sum256(body)))
	} else if got := fmt.Sprintf("%x", sha256.Sum256(body)); got != ts.Getenv(args[1]) {
		ts.Fatalf("%s serves other bytes as %s than those kept as %s", args[2], args[3], args[1])
	}
}

func (s *story) untilListed(ts *testscript.TestScript, _ bool, args []string) {
	o, f := s.named(ts, args[1]), s.file(ts, args[2])
	eventually(ts, func() string {
		status, body, err := o.Get(f.path)
		if err != nil || status != http.StatusOK || !slices.Contains(strings.Fields(string(body)), args[3]) {
			return fmt.Sprintf("%s: status %d, %v: %.300s", o.Name, status, err, body)
		}
		return ""
	})
}

func (s *story) stranger(ts *testscript.TestScript, _ bool, args []string) {
	s.Found(args[1], s.config(ts, args[2], nil))
}

func (s *story) everyone(ts *testscript.TestScript, _ bool, args []string) {
	want := number(ts, args[1])
	var all sync.WaitGroup
	for _, name := range args[2:] {
		f := s.file(ts, name)
		for _, o := range s.Offices() {
			if !o.Running() {
				continue
			}
			all.Go(func() {
				if status, body, err := s.ask(o, f, ""); err != nil || status != want {
					s.t.Errorf("%s: %s: status %d, want %d, %v: %.300s", o.Name, name, status, want, err, body)
				}
			})
		}
	}
	all.Wait()
}

func (s *story) want(ts *testscript.TestScript, _ bool, args []string) {
	o, f := s.named(ts, args[1]), s.file(ts, args[2])
	status, body, err := s.ask(o, f, "")
	if err != nil || status != http.StatusOK {
		ts.Fatalf("%s: %s: status %d, %v: %.300s", o.Name, args[2], status, err, body)
	}
	if f.kind == "list" {
		if got := strings.Fields(string(body)); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(args[3:]))) {
			ts.Fatalf("%s lists %v, want %v", o.Name, got, args[3:])
		}
		return
	}
	for _, word := range args[3:] {
		if !strings.Contains(string(body), word) {
			ts.Fatalf("%s: %s: no %q in %.300s", o.Name, args[2], word, body)
		}
	}
}

// eventually asks until what is returned is "".
func eventually(ts *testscript.TestScript, ask func() string) {
	last := ask()
	for end := time.Now().Add(patience); last != "" && time.Now().Before(end); last = ask() {
		time.Sleep(20 * time.Millisecond)
	}
	if last != "" {
		ts.Fatalf("not after %v: %s", patience, last)
	}
}

func (s *story) until(ts *testscript.TestScript, _ bool, args []string) {
	want, o, f := number(ts, args[1]), s.named(ts, args[2]), s.file(ts, args[3])
	eventually(ts, func() string {
		if status, body, err := s.ask(o, f, ""); err != nil || status != want {
			return fmt.Sprintf("%s: %s: status %d, want %d, %v: %.300s", o.Name, args[3], status, want, err, body)
		}
		return ""
	})
}

func (s *story) holds(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[2:] {
		status, _, err := s.ask(s.named(ts, args[1]), s.file(ts, name), "/cached-only")
		if err != nil || (status == http.StatusOK) != (args[0] == "holds") {
			ts.Fatalf("%s: %s: asked for what is held: status %d, %v", args[1], name, status, err)
		}
	}
}

func (s *story) source(ts *testscript.TestScript, _ bool, args []string) {
	n, _ := s.named(ts, args[1]).Served(args[2])
	if none := len(args) > 3; none != (n == 0) {
		ts.Fatalf("%s served %d answers from %s", args[1], n, args[2])
	}
}

func (s *story) asked(ts *testscript.TestScript, _ bool, args []string) {
	if got := s.upstream.Count(outside.Kind(args[1])); got != number(ts, args[2]) {
		ts.Fatalf("the upstream was asked %d times for a %s, want %s", got, args[1], args[2])
	}
}

func (s *story) healed(*testscript.TestScript, bool, []string) {
	for _, o := range s.Offices() {
		o.damaged = false
	}
}

func (s *story) replicated(*testscript.TestScript, bool, []string) { s.CheckReplicas() }

func (s *story) once(*testscript.TestScript, bool, []string) { s.CheckOnce(s.upstream) }

// faults are ways in which the upstream of stories breaks.
var faults = map[string]outside.Fault{
	"error": {Status: 500, Text: "the disk is full"}, "busy": {Status: 503, Text: "too busy"},
	"gone": {Status: 404, Text: "not found: gone"}, "drop": {Drop: true}, "hang": {Hang: true},
	"truncate": {Truncate: true}, "stall": {Stall: true}, "short": {Short: 10}, "circle": {Status: 302},
	"flip": {Edit: outside.FlipByte}, "forge": {Edit: outside.Forge},
	"empty": {Edit: func(outside.Request, []byte) []byte { return nil }},
	"slow":  {Pace: time.Millisecond}, "flaky": {Every: 2, Drop: true}, "late": {Delay: 100 * time.Millisecond},
}

func (s *story) upstreamDoes(ts *testscript.TestScript, _ bool, args []string) {
	switch args[1] {
	case "stop":
		s.upstream.Stop()
	case "start":
		ts.Check(s.upstream.Start())
	case "forget":
		s.upstream.Reset()
	case "mend":
		for _, mend := range s.mend {
			mend()
		}
		s.mend = nil
	default:
		f, ok := faults[args[1]]
		if !ok {
			ts.Fatalf("unknown fault %s", args[1])
		}
		for _, kind := range args[2:] {
			f.Kinds = append(f.Kinds, outside.Kind(kind))
		}
		s.mend = append(s.mend, s.upstream.Break(f))
	}
}

func (s *story) publish(ts *testscript.TestScript, _ bool, args []string) {
	name, version, _ := strings.Cut(args[1], "@")
	m := module.Version{Path: "example.test/" + name, Version: version}
	if args[0] == "unpublish" {
		s.world.Remove(m)
		return
	}
	_, err := s.world.AddFiles(m, map[string][]byte{
		"go.mod": []byte("module " + m.Path + "\n\ngo 1.21\n"),
		"p.go":   []byte("package p\n\nconst Text = `" + args[2] + "`\n"),
	})
	ts.Check(err)
}

func (s *story) members(ts *testscript.TestScript, _ bool, args []string) {
	want := slices.Sorted(slices.Values(args[1:]))
	for _, name := range args[1:] {
		o := s.named(ts, name)
		eventually(ts, func() string {
			got := []string{name}
			peers, err := o.Node().Peers(s.t.Context())
			ts.Check(err)
			for _, p := range peers {
				if p.Connected {
					got = append(got, p.Office)
				} else if args[0] == "members" {
					got = append(got, p.Office+" (away)")
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Sprintf("%s knows %v, want %v", name, got, want)
			}
			return ""
		})
	}
}

func (s *story) link(*testscript.TestScript, bool, []string) { s.Link(toxic.Path{}) }

func (s *story) cut(ts *testscript.TestScript, _ bool, args []string) {
	from, to := s.named(ts, args[1]), s.named(ts, args[2])
	s.CutOneWay(from, to, true)
	if args[0] == "cut" {
		s.CutOneWay(to, from, true)
	}
}

func (s *story) heal(*testscript.TestScript, bool, []string) { s.Heal() }

func (s *story) revoke(ts *testscript.TestScript, neg bool, args []string) {
	_, err := s.named(ts, args[1]).Node().Revoke(s.t.Context(), node.Revocation{Who: args[2]})
	if neg != (err != nil) {
		ts.Fatalf("revoke %s: %v", args[2], err)
	}
}

func (s *story) leave(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(s.named(ts, args[1]).Node().Leave(s.t.Context()))
}

func (s *story) rotate(ts *testscript.TestScript, _ bool, args []string) {
	var without []string
	for _, name := range args[2:] {
		without = append(without, s.named(ts, name).Status().PeerID)
	}
	ts.Check(s.named(ts, args[1]).Node().Rotate(s.t.Context(), without))
}

func (s *story) withdraw(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(s.named(ts, args[1]).Node().Withdraw(s.t.Context(), args[2]))
}

func (s *story) scrub(ts *testscript.TestScript, _ bool, args []string) {
	v, err := s.named(ts, args[1]).Node().Verify(s.t.Context(), nil)
	ts.Check(err)
	if args[2] != "any" && len(v.Problems) != number(ts, args[2]) {
		ts.Fatalf("%s found %+v, want %s", args[1], v.Problems, args[2])
	}
}

func (s *story) conflicts(ts *testscript.TestScript, _ bool, args []string) {
	list, err := s.named(ts, args[1]).Node().Conflicts(s.t.Context())
	ts.Check(err)
	if len(list) != number(ts, args[2]) {
		ts.Fatalf("%s has conflicts %+v, want %s", args[1], list, args[2])
	}
}

func (s *story) sums(ts *testscript.TestScript, neg bool, args []string) {
	text, err := os.ReadFile(ts.MkAbs(args[2]))
	ts.Check(err)
	_, err = s.named(ts, args[1]).Node().Trust(s.t.Context(), node.GoSum{Origin: args[2], Text: text})
	if neg != (err != nil) {
		ts.Fatalf("sums: %v", err)
	}
}

func (s *story) goCommand(ts *testscript.TestScript, neg bool, args []string) {
	g := s.client(s.t, s.named(ts, args[1]), "GOFLAGS=-modcacherw -mod=mod")
	out, err := g.Run(s.t.Context(), args[2:]...)
	var failed *outside.CommandError
	if errors.As(err, &failed) {
		out = failed.Output
	}
	fmt.Fprint(ts.Stdout(), out)
	if neg != (err != nil) {
		ts.Fatalf("go %s: %v", strings.Join(args[2:], " "), cmp.Or(err, errors.New("no error")))
	}
}
