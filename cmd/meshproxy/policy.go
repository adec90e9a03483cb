package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/policy"
)

func policyCommand() *cli.Command {
	return group(&cli.Command{
		Name:  "policy",
		Usage: "what may be used, by whom, and what stays private",
	}, policyTestCommand(), policyPublishCommand(), policyShowCommand())
}

// errNotAllowed is the outcome of a test that found a module excluded.
var errNotAllowed = errors.New("not allowed, see above")

func policyTestCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "test",
		Usage:     "say what the policy makes of a module version, and which line decides",
		ArgsUsage: "MODULE@VERSION",
		Description: `Asks the node that runs, whose hooks are asked too. With --file it tries a filter file
that is not in force yet, and needs no node. Exit status 1 if the module is not allowed.

Examples:

   meshproxy policy test golang.org/x/mod@v0.38.0
   meshproxy policy test --file new.filter example.com/acme/log@v1.2.3`,
		Flags: atFlags(jsonFlag(), &cli.StringFlag{
			Name: "file", TakesFile: true, Usage: "try this filter `FILE` instead",
		}),
	}, func(c *cli.Context) error {
		m, err := parseModule(c.Args().First())
		if err != nil {
			return err
		}
		var t *node.Tested
		if file := c.String("file"); file != "" {
			e, err := policy.Open(policy.Config{FilterFile: file})
			if err != nil {
				return misuse("%w", err)
			}
			defer e.Close()
			v := e.Decide(m)
			t = &node.Tested{
				Module: m, Verdict: v, Allowed: v.Rule == policy.Include, Reason: v.Reason(),
				Verdicts: e.Explain(m), Warnings: append([]string{}, e.Warnings()...), Problems: []string{},
			}
		} else if err := withControl(c, func(ctl node.Control) error { t, err = ctl.PolicyTest(c.Context, m); return err }); err != nil {
			return fmt.Errorf("policy test: %w", err)
		}
		if err := show(c, t, printTested); err != nil {
			return err
		}
		if !t.Allowed {
			return errNotAllowed
		}
		return nil
	})
}

func printTested(c *cli.Context, t *node.Tested) error {
	verdict := "allowed"
	switch {
	case !t.Allowed && t.Verdict.Rule == policy.Direct:
		verdict = "not kept here"
	case !t.Allowed:
		verdict = "refused"
	}
	fmt.Fprintf(c.App.Writer, "%s is %s: %s\n", t.Module, verdict, t.Reason)
	for _, v := range t.Verdicts {
		if v != t.Verdict && (v.Line > 0 || v.Rule != policy.Include) {
			fmt.Fprintf(c.App.Writer, "also: %s\n", v.Reason())
		}
	}
	for _, w := range t.Warnings {
		fmt.Fprintf(c.App.Writer, "warning: %s\n", w)
	}
	for _, p := range t.Problems {
		fmt.Fprintf(c.App.Writer, "BROKEN: %s\n", p)
	}
	return nil
}

func policyPublishCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "publish",
		Usage:     "make a document the policy of the whole mesh",
		ArgsUsage: "FILE",
		Description: `Only admins publish. The document reaches every office as revocations do; an office may
be stricter than it, and never less strict. docs/policy.md says what it can say.

Examples:

   meshproxy policy publish mesh.toml
   meshproxy policy publish -                      # reads standard input`,
		Flags: []cli.Flag{jsonFlag()},
	}, func(c *cli.Context, ctl node.Control) error {
		text, err := readFile(c.Args().First(), policy.MaxDocument)
		if err != nil {
			return err
		}
		if _, err := policy.ParseMeshDocument(text); err != nil {
			return misuse("%s: %w", c.Args().First(), err)
		}
		p, err := ctl.PolicyPublish(c.Context, string(text))
		if err != nil {
			return err
		}
		return show(c, p, func(c *cli.Context, p *node.MeshPolicy) error {
			_, err := fmt.Fprintf(c.App.Writer, "Published policy number %d.\n", p.Counter)
			return err
		})
	})
}

func policyShowCommand() *cli.Command {
	return showCommand(&cli.Command{
		Name:  "show",
		Usage: "print the policy of the mesh",
		Description: `Examples:

   meshproxy policy show
   meshproxy policy show --json`,
	}, func(c *cli.Context, ctl node.Control) (*node.MeshPolicy, error) { return ctl.PolicyShow(c.Context) }, printMeshPolicy)
}

func printMeshPolicy(c *cli.Context, p *node.MeshPolicy) error {
	if p.Counter == 0 {
		_, err := fmt.Fprintln(c.App.Writer, "No policy was published; each office has its own only.")
		return err
	}
	_, err := fmt.Fprintf(c.App.Writer, "# Policy number %d, published by %s, %s\n%s", p.Counter, p.By, p.At.Local().Format(time.DateTime), p.Document)
	return err
}
