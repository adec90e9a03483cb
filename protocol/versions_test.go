package protocol_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/protocol"
)

func TestParseList(t *testing.T) {
	const p1, p2 = "v0.0.0-20240301120000-0123456789ab", "v0.0.0-20230301120000-0123456789ab"
	for _, test := range []struct {
		name, mod, text        string
		tagged, pseudo, latest string
	}{
		{"in order", "a.test/m", "v1.0.0\nv1.10.0\nv1.9.0\n", "v1.0.0 v1.9.0 v1.10.0", "", "v1.10.0"},
		{"pre-release after release", "a.test/m", "v1.0.0\nv1.1.0-rc.1\n", "v1.0.0 v1.1.0-rc.1", "", "v1.0.0"},
		{"pre-releases only", "a.test/m", "v1.0.0-rc.1\nv1.0.0-rc.2\n", "v1.0.0-rc.1 v1.0.0-rc.2", "", "v1.0.0-rc.2"},
		{"incompatible below compatible", "a.test/m", "v1.0.0\nv2.0.0+incompatible\n", "v1.0.0 v2.0.0+incompatible", "", "v1.0.0"},
		{"incompatible only", "a.test/m", "v2.0.0+incompatible\nv3.0.0+incompatible\n", "v2.0.0+incompatible v3.0.0+incompatible", "", "v3.0.0+incompatible"},
		{"pseudo-versions aside", "a.test/m", p1 + "\nv1.0.0\n", "v1.0.0", p1, "v1.0.0"},
		{"pseudo-versions only", "a.test/m", p1 + "\n" + p2 + "\n", "", p2 + " " + p1, p1},
		{"times", "a.test/m", "v1.0.0 2024-03-01T12:00:00Z\n", "v1.0.0", "", "v1.0.0"},
		{"carriage returns", "a.test/m", "v1.0.0\r\nv1.1.0\r\n", "v1.0.0 v1.1.0", "", "v1.1.0"},
		{"twice", "a.test/m", "v1.0.0\nv1.0.0\n", "v1.0.0", "", "v1.0.0"},
		{"no newline at the end", "a.test/m", "v1.0.0", "v1.0.0", "", "v1.0.0"},
		{"not canonical", "a.test/m", "v1.0\nmain\n1.0.0\nv1.0.0+meta\n", "", "", ""},
		{"other major version", "a.test/m/v2", "v1.0.0\nv2.0.0\nv3.0.0\n", "v2.0.0", "", "v2.0.0"},
		{"web page", "a.test/m", "<html>\n<body>v1.0.0</body>\n", "", "", ""},
		{"empty", "a.test/m", "", "", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := protocol.ParseList(test.mod, []byte(test.text))
			if got := strings.Join(v.Tagged, " "); got != test.tagged {
				t.Errorf("tagged %q, want %q", got, test.tagged)
			}
			if got := strings.Join(v.Pseudo, " "); got != test.pseudo {
				t.Errorf("pseudo %q, want %q", got, test.pseudo)
			}
			if got := v.Latest(); got != test.latest {
				t.Errorf("latest %q, want %q", got, test.latest)
			}
		})
	}
}

func TestParseInfo(t *testing.T) {
	for _, test := range []struct {
		name, mod, rev, text string
		ok                   bool
	}{
		{"version", "a.test/m", "v1.0.0", `{"Version":"v1.0.0"}`, true},
		{"time and origin", "a.test/m", "v1.0.0", `{"Version":"v1.0.0","Time":"2024-03-01T12:00:00Z","Origin":{"VCS":"git"}}`, true},
		{"branch", "a.test/m", "main", `{"Version":"v1.0.0"}`, true},
		{"latest", "a.test/m", "", `{"Version":"v1.0.0"}`, true},
		{"tag that needs incompatible", "a.test/m", "v2.0.0", `{"Version":"v2.0.0+incompatible"}`, true},
		{"other version", "a.test/m", "v1.0.0", `{"Version":"v1.0.1"}`, false},
		{"no version", "a.test/m", "v1.0.0", `{}`, false},
		{"branch without version", "a.test/m", "main", `{}`, false},
		{"branch with uncanonical version", "a.test/m", "main", `{"Version":"main"}`, false},
		{"branch with version of another path", "a.test/m/v2", "main", `{"Version":"v1.0.0"}`, false},
		{"branch with traversal", "a.test/m", "main", `{"Version":"v1.0.0-../../x"}`, false},
		{"malformed time", "a.test/m", "v1.0.0", `{"Version":"v1.0.0","Time":"now"}`, false},
		{"web page", "a.test/m", "v1.0.0", `<html>`, false},
		{"two values", "a.test/m", "v1.0.0", `{"Version":"v1.0.0"}{}`, false},
		{"empty", "a.test/m", "v1.0.0", ``, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			info, err := protocol.ParseInfo(test.mod, test.rev, []byte(test.text))
			if (err == nil) != test.ok {
				t.Errorf("%+v, %v; want success: %v", info, err, test.ok)
			}
		})
	}
}

func FuzzParseList(f *testing.F) {
	f.Add("a.test/m", "v1.0.0\nv0.0.0-20240301120000-0123456789ab\nv2.0.0+incompatible 2024\n")
	f.Fuzz(func(t *testing.T, mod, text string) {
		v := protocol.ParseList(mod, []byte(text))
		for _, s := range slices.Concat(v.Tagged, v.Pseudo) {
			if !protocol.IsCanonical(mod, s) {
				t.Fatalf("%q is no version of %q", s, mod)
			}
		}
		if slices.ContainsFunc(v.Tagged, module.IsPseudoVersion) {
			t.Fatalf("pseudo-version told to clients: %q", v.Tagged)
		}
		if again := protocol.ParseList(mod, protocol.EncodeList(v.Tagged)); !slices.Equal(again.Tagged, v.Tagged) {
			t.Fatalf("%q becomes %q", v.Tagged, again.Tagged)
		}
		if latest := v.Latest(); latest != "" && !slices.Contains(slices.Concat(v.Tagged, v.Pseudo), latest) {
			t.Fatalf("latest %q comes from nowhere", latest)
		}
	})
}

func FuzzParseInfo(f *testing.F) {
	f.Add("a.test/m", "v1.0.0", []byte(`{"Version":"v1.0.0","Time":"2024-03-01T12:00:00Z"}`))
	f.Add("a.test/m", "main", []byte(`{"Version":"v1.0.0"}`))
	f.Fuzz(func(t *testing.T, mod, rev string, text []byte) {
		info, err := protocol.ParseInfo(mod, rev, text)
		if err != nil {
			return
		}
		if !protocol.IsCanonical(mod, info.Version) || !json.Valid(text) {
			t.Fatalf("accepted %q for %q@%q", text, mod, rev)
		}
		if protocol.IsCanonical(mod, rev) && info.Version != rev {
			t.Fatalf("%q for %q", info.Version, rev)
		}
	})
}
