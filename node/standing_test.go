package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/mesh"
)

func TestStandingSaysWhatTheClockIsDoing(t *testing.T) {
	for name, c := range map[string]struct {
		err           error
		ahead         time.Duration
		of            int
		verdict, says string
	}{
		"a member, alone":    {verdict: Good, says: "is a member"},
		"clocks agree":       {ahead: -time.Second, of: 3, verdict: Good, says: "agrees with 3 other offices"},
		"the clock is ahead": {ahead: 2 * time.Hour, of: 3, verdict: Fault, says: "2h0m0s ahead of"},
		"it is behind":       {ahead: -6 * time.Minute, of: 1, verdict: Fault, says: "6m0s behind that of 1 other office"},
		"revoked":            {err: fmt.Errorf("x: %w", mesh.ErrRemoved), verdict: Fault, says: "revoked"},
		"run out":            {err: fmt.Errorf("this node's credential has expired"), ahead: time.Hour, of: 1, verdict: Fault, says: "has expired"},
	} {
		t.Run(name, func(t *testing.T) {
			f := standing(c.err, func() (time.Duration, int) { return c.ahead, c.of })
			if f.Verdict != c.verdict || !strings.Contains(f.Detail, c.says) || (f.Advice == "") != (c.verdict == Good) {
				t.Errorf("found %+v, want %s with %q", f, c.verdict, c.says)
			}
		})
	}
}
