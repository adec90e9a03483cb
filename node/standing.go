package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshproxy/meshproxy/mesh"
)

// checkStanding sees whether this office is a member by its own clock, and whether that
// clock agrees with those of the others.
func (n *Node) checkStanding(context.Context) Finding {
	return standing(n.mesh.Standing(), n.mesh.ClockOffset)
}

func standing(err error, clocks func() (ahead time.Duration, of int)) Finding {
	f := Finding{Check: "membership", Verdict: Good, Detail: "this office is a member"}
	ahead, of := clocks()
	switch {
	case errors.Is(err, mesh.ErrRemoved):
		f.Verdict, f.Detail = Fault, err.Error()
		f.Advice = "ask an admin why; to come back it needs a new identity and a token"
	case err != nil:
		f.Verdict, f.Detail = Fault, err.Error()
		f.Advice = "if the clock is wrong, set it, and keep it set (NTP); if it is right, join again with a new token"
	case of > 0 && ahead.Abs() > maxSkew:
		word := "ahead of"
		if ahead < 0 {
			word = "behind"
		}
		f.Verdict = Fault
		f.Detail = fmt.Sprintf("this machine's clock is %v %s that of %s", ahead.Abs().Round(time.Second), word, count(of, "other office", "other offices, in the middle"))
		f.Advice = "set the clock, and keep it set (NTP): who joins elsewhere is refused here, or this office there"
	case of > 0:
		f.Detail += ", and its clock agrees with " + count(of, "other office", "other offices")
	}
	return f
}
