package main

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
)

func TestFit(t *testing.T) {
	for name, c := range map[string]struct {
		natural, words []int
		width          int
		want           []int
		fits           bool
	}{
		"no terminal":                {[]int{500, 3}, []int{9, 3}, 0, []int{500, 3}, true},
		"nothing":                    {nil, nil, 80, nil, true},
		"as it is":                   {[]int{10, 20}, []int{9, 9}, 32, []int{10, 20}, true},
		"the widest one gives":       {[]int{5, 40}, []int{5, 9}, 32, []int{5, 25}, true},
		"wide ones become alike":     {[]int{50, 40, 4}, []int{9, 9, 4}, 48, []int{20, 20, 4}, true},
		"a narrow one is left alone": {[]int{60, 6, 6}, []int{9, 6, 6}, 30, []int{14, 6, 6}, true},
		"there is no room":           {[]int{60, 60, 60}, []int{9, 9, 9}, 30, []int{10, 10, 10}, false},
		"others give before a word":  {[]int{52, 40}, []int{52, 9}, 80, []int{52, 26}, true},
		"a word has to break":        {[]int{52, 40}, []int{52, 40}, 80, []int{39, 39}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, fits := fit(c.natural, c.words, c.width)
			if !slices.Equal(got, c.want) || fits != c.fits {
				t.Errorf("fit(%v, %v, %d) = %v, %v; want %v, %v", c.natural, c.words, c.width, got, fits, c.want, c.fits)
			}
		})
	}
}

// TestTableFits prints tables at many widths: no line is wider, and nothing is lost.
func TestTableFits(t *testing.T) {
	peer := "12D3KooWPWpBYJR2soPob42WwKBECVgqfnuNkVhAmfYNMXyqrjYT"
	rows := map[string][]any{
		"words":  {"fault", "other offices", "0 of 1 are connected\n-> check that this machine reaches the addresses"},
		"a word": {"lima", peer, "/ip4/192.0.2.2/udp/4911/quic-v1/p2p/" + peer},
		"umlaut": {"köln", "größer", strings.Repeat("ä", 70)},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			for width := 36; width < 200; width++ {
				g := &grid{width: width, header: []string{"office", "peer ID", "address"}}
				g.AppendRow(row)
				var b strings.Builder
				if err := printTable(&b, g); err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(b.String()) {
					if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
						t.Fatalf("%d columns in %d: %q", n, width, line)
					}
				}
				if have, want := letters(b.String()), letters("officepeer IDaddress", row...); have != want {
					t.Fatalf("in %d columns:\n%s\nletters %q, want %q", width, &b, have, want)
				}
			}
		})
	}
}

// TestTableBreaksNoWords: what somebody may want to copy stays in one piece.
func TestTableBreaksNoWords(t *testing.T) {
	peer := "12D3KooWPWpBYJR2soPob42WwKBECVgqfnuNkVhAmfYNMXyqrjYT"
	for _, width := range []int{200, 100, 80, 72} {
		g := &grid{width: width, header: []string{"office", "state", "member until", "peer ID", "address"}}
		g.AppendRow([]any{"lima", "connected", "2027-12-01", peer, "/ip4/192.0.2.2/udp/4911/quic-v1"})
		var b strings.Builder
		if err := printTable(&b, g); err != nil || !strings.Contains(b.String(), peer) {
			t.Errorf("in %d columns: %v\n%s", width, err, &b)
		}
	}
}

// letters are those of a text and of cells, sorted: wrapping moves them only.
func letters(text string, cells ...any) string {
	for _, cell := range cells {
		text += cell.(string)
	}
	all := []rune(strings.ToUpper(strings.Join(strings.Fields(text), "")))
	slices.Sort(all)
	return string(all)
}

// TestTableLines keeps the lines that a cell has of its own.
func TestTableLines(t *testing.T) {
	g := &grid{width: 40}
	g.AppendRow([]any{"fault", "0 of 1 are connected\n-> check that this machine reaches them"})
	g.AppendRow([]any{"ok", ""})
	want := "fault  0 of 1 are connected\n       -> check that this machine\n       reaches them\nok\n"
	var b strings.Builder
	if err := printTable(&b, g); err != nil || b.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, &b, want)
	}
}

// TestWhyFits holds what why prints to a terminal's width, whatever the names are.
func TestWhyFits(t *testing.T) {
	long := strings.Repeat("a-long-name.", 12)
	g := &grid{width: 80}
	sayFiles(g, &node.Why{
		Module: module.Version{Path: "example.test/words", Version: "v1.1.0"},
		Files: []node.WhyFile{{
			File: "zip", Digest: "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", Office: long, Source: "proxy " + long,
			Signer: "12D3KooWPWpBYJR2soPob42WwKBECVgqfnuNkVhAmfYNMXyqrjYT", Vouched: "database " + long,
		}},
		Policy: &node.Tested{Reason: "line 7 of " + long},
	})
	var b strings.Builder
	if err := printTable(&b, g); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\npolicy  not allowed: line 7") || !strings.Contains(b.String(), "(only its record is\n") {
		t.Errorf("something is missing:\n%s", &b)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}
