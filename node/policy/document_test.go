package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/module"
)

const documentSample = `
filter = """
- a.test/bad
"""
share = "public"
[[hold]]
modules = ["a.test/secret", "*.corp.test/x"]
offices = ["berlin", "eu-*", "12D3peer"]
[[hold]]
modules = ["a.test"]
offices = ["*"]
[[publish]]
modules = ["a.test/patched"]
offices = ["berlin"]
[[download]]
modules = ["a.test/huge"]
mode = "none"
`

func TestDocument(t *testing.T) {
	d, err := ParseDocument([]byte(documentSample))
	if err != nil {
		t.Fatal(err)
	}
	berlin, lisbon := Office{Name: "berlin", Peer: "p1"}, Office{Name: "lisbon", Peer: "p2"}
	for name, c := range map[string]struct {
		got, want bool
	}{
		"named":                         {d.MayHold(berlin, "a.test/secret"), true},
		"not named":                     {d.MayHold(lisbon, "a.test/secret"), false},
		"below a path":                  {d.MayHold(lisbon, "a.test/secret/v2"), false},
		"by a pattern of names":         {d.MayHold(Office{Name: "eu-west"}, "a.test/secret"), true},
		"by peer ID":                    {d.MayHold(Office{Name: "x", Peer: "12D3peer"}, "a.test/secret"), true},
		"without a name":                {d.MayHold(Office{}, "a.test/secret"), false},
		"without a name, by any name":   {d.MayHold(Office{}, "a.test/other"), false},
		"first rule counts":             {d.MayHold(lisbon, "a.test/other"), true},
		"pattern of modules":            {d.MayHold(lisbon, "git.corp.test/x/y"), false},
		"no rule about it":              {d.MayHold(lisbon, "b.test"), true},
		"may publish":                   {d.MayPublish(berlin, "a.test/patched"), true},
		"may not publish":               {d.MayPublish(lisbon, "a.test/patched"), false},
		"publish what no rule names":    {d.MayPublish(berlin, "b.test"), false},
		"download mode":                 {d.Download("a.test/huge/x").Mode == None, true},
		"download mode of all the rest": {d.Download("b.test").Mode == "", true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.got != c.want {
				t.Errorf("%v, want %v", c.got, c.want)
			}
		})
	}
	if _, err := ParseMeshDocument([]byte(documentSample)); !errors.Is(err, ErrDocument) {
		t.Errorf("a mesh's document with download modes: error %v, want %v", err, ErrDocument)
	}
}

func TestBadDocuments(t *testing.T) {
	for name, text := range map[string]string{
		"no TOML":           "- a.test",
		"unknown key":       `fliter = "-"`,
		"unknown key below": "[[hold]]\nmodules=['a']\noffices=['b']\nrole='x'",
		"bad filter":        `filter = "? a.test"`,
		"bad sharing":       `share = "some"`,
		"bad hook":          `hook = "file:///x"`,
		"rule for nobody":   "[[hold]]\nmodules=['a']",
		"bad pattern":       "[[hold]]\nmodules=['[']\noffices=['b']",
		"comma in pattern":  "[[hold]]\nmodules=['a,b']\noffices=['b']",
		"bad mode":          "[[download]]\nmodules=['a']\nmode='later'",
		"too large":         "#" + strings.Repeat("x", MaxDocument),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseDocument([]byte(text)); !errors.Is(err, ErrDocument) {
				t.Errorf("error %v, want %v", err, ErrDocument)
			}
		})
	}
}

// TestStricterCounts puts the policies of an office and of its mesh together.
func TestStricterCounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "filter")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("+ a.test\n- b.test\n")
	var mesh *Signed
	publish := func(id, text string) { mesh = &Signed{ID: id, Text: []byte(text), Counter: 1, By: "berlin"} }
	e, err := Open(Config{FilterFile: file, Share: SharePublic, Mesh: func() *Signed { return mesh }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	rule := func(path string, want Rule) {
		t.Helper()
		if v := e.Decide(module.Version{Path: path, Version: "v1.0.0"}); v.Rule != want {
			t.Errorf("%s is %s, want %s", path, v.Reason(), want)
		}
	}
	rule("a.test", Include)
	rule("b.test", Exclude)
	publish("1", "filter = '- a.test'\nshare = 'all'\n[[hold]]\nmodules=['c.test']\noffices=['berlin']\n")
	rule("a.test", Exclude) // whatever the office says
	rule("b.test", Exclude) // whatever the mesh says
	public := func(path string) bool { return path == "p.test" }
	if !e.Shares(Office{Name: "lisbon"}, "p.test", public) || e.Shares(Office{Name: "lisbon"}, "q.test", public) {
		t.Error("the office shares public modules, and the mesh's word made it share others")
	}
	if ok, source := e.MayHold(Office{Name: "lisbon"}, "c.test"); ok || source != fromMesh {
		t.Errorf("lisbon may hold c.test: %v, says %s", ok, source)
	}
	publish("2", "fliter = ''")
	rule("a.test", Exclude)
	if p := e.Problems(); len(p) != 1 || !strings.Contains(p[0], "fliter") {
		t.Errorf("a document that this office does not understand: problems %q", p)
	}
	publish("3", "")
	rule("a.test", Include)
	if p := e.Problems(); len(p) != 0 {
		t.Errorf("problems %q", p)
	}
	write("? x")
	e.Reload()
	rule("b.test", Exclude)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	e.Reload()
	rule("b.test", Exclude)
	if p := e.Problems(); len(p) != 1 {
		t.Errorf("problems %q, want that the file is gone", p)
	}
	write("- a.test")
	e.Reload()
	rule("b.test", Include)
	rule("a.test", Exclude)
}

func FuzzParseDocument(f *testing.F) {
	f.Add(documentSample, "a.test/secret")
	f.Fuzz(func(t *testing.T, text, path string) {
		d, err := ParseDocument([]byte(text))
		if err != nil {
			return
		}
		d.MayHold(Office{Name: "berlin"}, path)
		d.MayPublish(Office{Name: "berlin"}, path)
		d.Download(path)
	})
}
