package policy

import (
	"errors"
	"strings"
	"testing"
)

func parse(t *testing.T, lines ...string) *Filter {
	t.Helper()
	f, err := ParseFilter([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFilterAsDocumented holds the parser to what Athens' documentation says of
// the format.
func TestFilterAsDocumented(t *testing.T) {
	sample := []string{
		"# This is a comment", "", "",
		"- git.test/azure", "+ git.test/azure/azure-sdk-for-go", "",
		"# get golang tools directly", "D lang.test/x/tools",
	}
	approved := []string{"-", "# internal", "D ghe.test/company", "+ git.test/gomods/athens v0.1,v0.2,v0.4.1"}
	for name, c := range map[string]struct {
		file          []string
		path, version string
		want          Rule
		line          int
	}{
		"nothing said":                {sample, "other.test/m", "v1.0.0", Include, 0},
		"excluded":                    {sample, "git.test/azure", "v1.0.0", Exclude, 4},
		"below an excluded path":      {sample, "git.test/azure/x/y", "v1.0.0", Exclude, 4},
		"longest path wins":           {sample, "git.test/azure/azure-sdk-for-go", "v1.0.0", Include, 5},
		"below the longest path":      {sample, "git.test/azure/azure-sdk-for-go/v2", "v2.0.0", Include, 5},
		"a longer word is no child":   {sample, "git.test/azurewhatever", "v1.0.0", Include, 0},
		"direct":                      {sample, "lang.test/x/tools", "v0.1.0", Direct, 8},
		"parent of a rule":            {sample, "git.test", "v1.0.0", Include, 0},
		"default of exclusion":        {approved, "other.test/m", "v1.0.0", Exclude, 1},
		"default and direct":          {approved, "ghe.test/company/a", "v1.0.0", Direct, 3},
		"approved minor":              {approved, "git.test/gomods/athens", "v0.1.7", Include, 4},
		"approved minor, pre-release": {approved, "git.test/gomods/athens", "v0.1.7-rc.1", Include, 4},
		"another minor":               {approved, "git.test/gomods/athens", "v0.10.0", Exclude, 1},
		"approved patch":              {approved, "git.test/gomods/athens", "v0.4.1", Include, 4},
		"another patch":               {approved, "git.test/gomods/athens", "v0.4.2", Exclude, 1},
		"patch that begins alike":     {approved, "git.test/gomods/athens", "v0.4.10", Exclude, 1},
		"default in the last line":    {[]string{"+ a.test/b", "-"}, "c.test/d", "v1.0.0", Exclude, 2},
		"default of direct":           {[]string{"D", "- a.test/b", "+ a.test/c"}, "x.test/y", "v1.0.0", Direct, 1},
		"slashes around a path":       {[]string{"- /a.test/b/"}, "a.test/b", "v1.0.0", Exclude, 1},
		"spaces around a line":        {[]string{"  - a.test/b  "}, "a.test/b", "v1.0.0", Exclude, 1},
		"carriage returns":            {[]string{"- a.test/b\r", "+ a.test/b/c\r"}, "a.test/b", "v1.0.0", Exclude, 1},
		"the last line for a path":    {[]string{"- a.test/b", "+ a.test/b"}, "a.test/b", "v1.0.0", Include, 2},
		"qualified rule falls back":   {[]string{"- a.test", "+ a.test/b v1", "D a.test/b/c v1.2.*,v0.8"}, "a.test/b/c/d", "v1.3.4", Include, 2},
		"qualified rule holds":        {[]string{"- a.test", "+ a.test/b v1", "D a.test/b/c v1.2.*,v0.8"}, "a.test/b/c/d", "v1.2.3", Direct, 3},
	} {
		t.Run(name, func(t *testing.T) {
			d := parse(t, c.file...).Decide(c.path, c.version)
			if d.Rule != c.want || d.Line != c.line {
				t.Errorf("%s@%s is %s by line %d (%s), want %s by line %d", c.path, c.version, d.Rule, d.Line, d.Text, c.want, c.line)
			}
		})
	}
}

func TestQualifiers(t *testing.T) {
	for qualifier, c := range map[string]struct{ fits, not string }{
		"v1":         {"v1.0.0 v1.9.9 v1.0.0-pre v1.0.0+incompatible", "v10.0.0 v2.0.0 v0.1.0"},
		"v1.*":       {"v1.0.0 v1.9.9", "v10.0.0"},
		"v1.2":       {"v1.2.0 v1.2.10", "v1.20.0 v1.3.0"},
		"2.3.*":      {"v2.3.5", "v2.30.0 v1.2.3"},
		"v1.2.3":     {"v1.2.3 v1.2.3+incompatible", "v1.2.30 v1.2.3-pre v1.2.4"},
		"v1.2.3*":    {"v1.2.3 v1.2.30 v1.2.3-pre", "v1.2.4"},
		"*":          {"v1.2.3 v0.0.0-20200101000000-abcdefabcdef", ""},
		"~v1.2.3":    {"v1.2.3 v1.2.5 v1.2.4-rc.1", "v1.2.2 v1.3.3 v1.2.3-rc.1 v2.2.4"},
		"~1.2.3":     {"v1.2.3 v1.2.5", "v1.2.2 v1.3.3"},
		"^v1.2.3":    {"v1.2.3 v1.2.5 v1.4.2", "v1.2.1 v2.0.0 v0.9.0"},
		"^1.2.3":     {"v1.3.0", "v1.2.2"},
		"<v1.2.3":    {"v1.2.2 v1.0.0 v0.58.9 v1.2.3-rc.1 v0.0.0-20200101000000-abcdefabcdef", "v1.2.3 v1.3.0 v2.0.0"},
		"<1.2.3":     {"v1.2.2", "v1.2.3"},
		"<v2.3.40":   {"v2.3.39 v2.2.45 v1.9.0+incompatible", "v2.4.1 v3.0.0+incompatible"},
		"v1,~v2.3.4": {"v1.0.0 v2.3.5", "v2.3.3 v3.0.0"},
	} {
		t.Run(qualifier, func(t *testing.T) {
			f := parse(t, "- a.test/b "+qualifier)
			if w := f.Warnings(); len(w) > 0 {
				t.Errorf("warnings %q", w)
			}
			for v := range strings.FieldsSeq(c.fits) {
				if f.Decide("a.test/b", v).Rule != Exclude {
					t.Errorf("does not fit %s", v)
				}
			}
			for v := range strings.FieldsSeq(c.not) {
				if f.Decide("a.test/b", v).Rule == Exclude {
					t.Errorf("fits %s", v)
				}
			}
		})
	}
}

func TestQualifiersWithoutEffectAreWarnedOf(t *testing.T) {
	for _, q := range []string{"abcd", "~4.5", "<1", "^", "v1,", "v1.2.3.4"} {
		f := parse(t, "- a.test/b "+q)
		if len(f.Warnings()) != 1 || !strings.Contains(f.Warnings()[0], "fits nothing") {
			t.Errorf("%q: warnings %q", q, f.Warnings())
		}
		if d := f.Decide("a.test/b", "v4.5.6"); d.Rule != Include {
			t.Errorf("%q excludes v4.5.6", q)
		}
	}
	if w := parse(t, "- a.test/b v1", "- a.test/b v2").Warnings(); len(w) != 1 || !strings.Contains(w[0], "replaces line 1") {
		t.Errorf("a line that is replaced: warnings %q", w)
	}
}

func TestBadFilters(t *testing.T) {
	for name, text := range map[string]string{
		"some line":         "+ a.test/b\nsome_random_line\n",
		"unknown sign":      "! a.test/b",
		"sign without room": "-a.test/b",
		"too many words":    "+ a.test/b v1 v2",
		"spaces in a list":  "+ a.test/b v1, v2",
		"endless path":      "- " + strings.Repeat("a/", 2*maxPath),
		"too large":         strings.Repeat("#", MaxFilter+1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseFilter([]byte(text)); !errors.Is(err, ErrFilter) {
				t.Errorf("error %v, want %v", err, ErrFilter)
			}
		})
	}
	_, err := ParseFilter([]byte("# fine\n+ a.test/b\n? c.test/d\n"))
	if err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("error %v does not name line 3", err)
	}
}

func TestModuleOfAnyVersion(t *testing.T) {
	for name, c := range map[string]struct {
		file []string
		want Rule
	}{
		"excluded":                    {[]string{"- a.test"}, Exclude},
		"some versions excluded":      {[]string{"- a.test/b v1"}, Include},
		"some versions approved":      {[]string{"-", "+ a.test/b v1"}, Include},
		"excluded but for a parent's": {[]string{"-", "+ a.test v1", "- a.test/b v1.2.3"}, Include},
		"nothing left":                {[]string{"-", "- a.test/b v1"}, Exclude},
		"direct":                      {[]string{"D a.test"}, Direct},
	} {
		t.Run(name, func(t *testing.T) {
			if d := parse(t, c.file...).Module("a.test/b"); d.Rule != c.want {
				t.Errorf("%s by line %d, want %s", d.Rule, d.Line, c.want)
			}
		})
	}
}

// FuzzParseFilter wants no panic, and decisions that name a line of the file.
func FuzzParseFilter(f *testing.F) {
	f.Add("-\n+ a.test/b v1,~v2.3.4,^1.0.0,<v3.0.0,v1.2.*\nD c.test # x\n", "a.test/b/c", "v1.2.3")
	f.Add("- a.test/b ,", "a.test/b", "v0.0.0-20200101000000-abcdefabcdef")
	f.Fuzz(func(t *testing.T, text, path, version string) {
		filter, err := ParseFilter([]byte(text))
		if err != nil {
			return
		}
		d := filter.Decide(path, version)
		if d.Line == 0 {
			if d.Rule != Include {
				t.Fatalf("%s, and no line says so", d.Rule)
			}
			return
		}
		lines := strings.Split(text, "\n")
		if d.Line > len(lines) || Rule(strings.TrimSpace(lines[d.Line-1])[0]) != d.Rule {
			t.Fatalf("%s by line %d of %q", d.Rule, d.Line, text)
		}
		if filter.Module(path).Rule == Exclude && d.Rule != Exclude {
			t.Fatalf("every version of %q is excluded, but %q is not", path, version)
		}
	})
}
