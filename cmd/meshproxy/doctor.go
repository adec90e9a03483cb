package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

// errFault is the outcome of a doctor that found something.
var errFault = errors.New("something is at fault, see above")

func doctorCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:  "doctor",
		Usage: "check this office from end to end, and say what to do about each fault",
		Description: `Exit status 1 if anything is at fault.

Examples:

   meshproxy doctor
   meshproxy doctor --json`,
		Flags: []cli.Flag{jsonFlag()},
	}, func(c *cli.Context, ctl node.Control) error {
		found, err := ctl.Doctor(c.Context)
		if err != nil {
			return fmt.Errorf("doctor: %w", err)
		}
		found = append(found, checkClient(c, ctl))
		err = show(c, found, printFindings)
		if err == nil && slices.ContainsFunc(found, func(f node.Finding) bool { return f.Verdict == node.Fault }) {
			err = errFault
		}
		return err
	})
}

// checkClient sees whether the go command of whoever asks uses this node.
func checkClient(c *cli.Context, ctl node.Control) node.Finding {
	f := node.Finding{Check: "go command here", Verdict: node.Good}
	st, err := ctl.Status(c.Context)
	if err != nil || st.URL == "" {
		f.Verdict, f.Detail = node.Doubt, "the node's address is not known"
		return f
	}
	e, err := readGoEnv(c.Context)
	if err != nil {
		f.Verdict, f.Detail = node.Doubt, err.Error()
		return f
	}
	if uses := without(e.GOPROXY, func(p string) bool { return !isOwn(hostPort(st.URL), p) }); uses != "" {
		f.Detail = "uses this node: GOPROXY=" + e.GOPROXY
		return f
	}
	f.Verdict, f.Detail = node.Doubt, "does not use this node: GOPROXY="+e.GOPROXY
	f.Advice = "go env -w GOPROXY=" + st.URL
	return f
}

func printFindings(c *cli.Context, found []node.Finding) error {
	t := newTable(c.App.Writer)
	for _, f := range found {
		detail := f.Detail
		if f.Advice != "" {
			detail += "\n-> " + f.Advice
		}
		t.AppendRow([]any{f.Verdict, f.Check, detail})
	}
	return printTable(c.App.Writer, t)
}
