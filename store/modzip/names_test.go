package modzip

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// TestDeepNames has names with as many directories as fit: a listing of them is small on
// the wire, and must cost neither minutes nor gigabytes.
func TestDeepNames(t *testing.T) {
	deep := func(i, elements int) string {
		return prefix + fmt.Sprintf("%06d/", i) + strings.Repeat("A/", elements) + "x"
	}
	for _, test := range []struct {
		name            string
		count, elements int
		bad             bool
	}{
		{"as long as a path can be", 1, (maxName - len(prefix) - 8) / 2, false},
		{"longer", 1, maxName / 2, true},
		{"as long as a zip has room for", 1, (1<<16 - 100) / 2, true},
		{"many directories", 4000, 2000, true},
		{"many files", 20_000, 10, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			names := make([]string, test.count)
			for i := range names {
				names[i] = deep(i, test.elements)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := CheckNames(mod, names)
			runtime.ReadMemStats(&after)
			if (err != nil) != test.bad || err != nil && !errors.Is(err, ErrBadFile) {
				t.Errorf("%.200v, want an error: %v", err, test.bad)
			}
			if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 256 {
				t.Errorf("took %d MiB of memory", took)
			}
		})
	}
}
