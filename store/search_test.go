package store

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/module"
)

func TestSearchAndVersionsFrom(t *testing.T) {
	s := openTest(t, t.TempDir(), smallOptions())
	for _, m := range []string{"a.test/x@v1.0.0", "a.test/x@v1.0.1", "a.test/x@v1.0.10", "a.test/x@v1.1.0", "a.test/xy@v1.0.2", "b.test/x@v1.0.0"} {
		path, version, _ := strings.Cut(m, "@")
		if err := s.Commit(t.Context(), modRecord(t, module.Version{Path: path, Version: version}, ""), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("versions", func(t *testing.T) {
		for name, c := range map[string]struct {
			prefix, after string
			n             int
			want          string
			more          bool
		}{
			"all":                        {"", "", 9, "v1.0.0 v1.0.1 v1.0.10 v1.1.0", false},
			"some":                       {"", "", 2, "v1.0.0 v1.0.1", true},
			"the rest":                   {"", "v1.0.1", 2, "v1.0.10 v1.1.0", false},
			"beginning":                  {"v1.0.1", "", 9, "v1.0.1 v1.0.10", false},
			"beginning, on":              {"v1.0.1", "v1.0.1", 9, "v1.0.10", false},
			"on from before":             {"v1.1", "v1.0.1", 9, "v1.1.0", false},
			"on from behind":             {"v1.0", "v2", 9, "", false},
			"no such":                    {"v7", "", 9, "", false},
			"no room for what is behind": {"v1.0", "", 3, "v1.0.0 v1.0.1 v1.0.10", false},
		} {
			list, more, err := s.VersionsFrom("a.test/x", c.prefix, c.after, c.n)
			if err != nil || strings.Join(list, " ") != c.want || more != c.more {
				t.Errorf("%s: %v, %v, %v", name, list, more, err)
			}
		}
	})
	t.Run("search goes on where its bound stopped it", func(t *testing.T) {
		var found []string
		token, calls := "", 0
		for {
			list, next, err := s.Search(token, 9, 4, func(path string) bool { return path == "b.test/x" })
			if err != nil {
				t.Fatal(err)
			}
			calls++
			for _, m := range list {
				found = append(found, m.String())
			}
			if token = next; token == "" {
				break
			}
		}
		if !slices.Equal(found, []string{"b.test/x@v1.0.0"}) || calls != 2 {
			t.Errorf("%v after %d calls", found, calls)
		}
	})
}
