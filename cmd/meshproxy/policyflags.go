package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/policy"
)

const catPolicy = "What may be used"

// policyFlags are those of what an office allows.
func policyFlags() []cli.Flag {
	return append(hookFlags(), []cli.Flag{
		&cli.StringFlag{
			Name: "filter-file", EnvVars: env("filter-file"), TakesFile: true, Category: catPolicy,
			Usage: "include and exclude modules as this `FILE` says, in Athens' format; it is read again when it changes",
		},
		&cli.StringFlag{
			Name: "policy", EnvVars: env("policy"), TakesFile: true, Category: catPolicy,
			Usage: "more rules of this office, in TOML: `FILE` is described in docs/policy.md",
		},
		&cli.IntFlag{
			Name: "excluded-status", EnvVars: env("excluded-status"), Value: 403, Category: catPolicy,
			Usage: "answer with this HTTP `STATUS` for what is excluded: 403, 404, 410 or 500",
		},
		&cli.StringSliceFlag{
			Name: "deny-osv", EnvVars: env("deny-osv"), TakesFile: true, Category: catPolicy,
			Usage: "exclude versions with a known vulnerability, from `PATH`, a file or directory in OSV format",
		},
		&cli.StringSliceFlag{
			Name: "osv-ignore", EnvVars: env("osv-ignore"), Category: catPolicy,
			Usage: "let through what only this vulnerability is known of, by its `ID`",
		},
		&cli.StringFlag{
			Name: "download-mode", EnvVars: env("download-mode"), Value: string(policy.Sync), Category: catPolicy,
			Usage: "get what is not held in this `MODE`: sync, async, none, redirect or async_redirect",
		},
		&cli.BoolFlag{
			Name: "cached-from-mesh", EnvVars: env("cached-from-mesh"), Category: catPolicy,
			Usage: "answer /cached-only, and requests with Disable-Module-Fetch, from what other offices hold too",
		},
		&cli.StringFlag{
			Name: "redirect-to", EnvVars: env("redirect-to"), DefaultText: "the first proxy of --upstream", Category: catPolicy,
			Usage: "send clients to the proxy at `URL` for modules that are not kept here",
		},
		&cli.StringFlag{
			Name: "share", EnvVars: env("share"), Value: string(policy.ShareAll), Category: catPolicy,
			Usage: "let other offices have `WHICH` modules: all, public (those that a checksum database covers) or none",
		},
	}...)
}

// hookFlags are those of whom an office asks before it keeps anything.
func hookFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "hook", EnvVars: env("hook"), Category: catPolicy,
			Usage: "ask this `URL` before anything new is kept: 200 allows, 403 refuses (Athens' validator hook)",
		},
		&cli.StringFlag{
			Name: "hook-command", EnvVars: env("hook-command"), Category: catPolicy,
			Usage: "run this `COMMAND` with each new zip as its last argument: exit status 0 allows, 1 refuses",
		},
		&cli.DurationFlag{
			Name: "hook-timeout", EnvVars: env("hook-timeout"), Value: policy.DefaultHookTimeout, Category: catPolicy,
			Usage: "a hook that has not answered after this `TIME` gives no verdict",
		},
		&cli.DurationFlag{
			Name: "hook-ttl", EnvVars: env("hook-ttl"), Value: policy.DefaultHookTTL, Category: catPolicy,
			Usage: "remember what a hook allowed for this `TIME`",
		},
		&cli.BoolFlag{
			Name: "hook-every", EnvVars: env("hook-every"), Category: catPolicy,
			Usage: "ask at each request, not only before something new is kept",
		},
		&cli.BoolFlag{
			Name: "hook-fail-open", EnvVars: env("hook-fail-open"), Category: catPolicy,
			Usage: "let through what no hook could judge",
		},
	}
}

// policyConfig reads the flags of policyFlags.
func policyConfig(c *cli.Context, cfg *node.Config) error {
	cfg.Policy = node.PolicyConfig{
		Config: policy.Config{
			FilterFile: c.String("filter-file"), File: c.String("policy"),
			OSV: c.StringSlice("deny-osv"), OSVIgnore: c.StringSlice("osv-ignore"),
			Share: policy.Sharing(c.String("share")),
			Hooks: policy.HookConfig{
				URL: c.String("hook"), Command: strings.Fields(c.String("hook-command")),
				Timeout: c.Duration("hook-timeout"), TTL: c.Duration("hook-ttl"),
				Every: c.Bool("hook-every"), Open: c.Bool("hook-fail-open"),
			},
		},
		Status: c.Int("excluded-status"), RedirectTo: c.String("redirect-to"), Download: policy.Mode(c.String("download-mode")),
		CachedFromMesh: c.Bool("cached-from-mesh"),
	}
	p := &cfg.Policy
	if p.Status != 0 && !slices.Contains([]int{403, 404, 410, 500}, p.Status) {
		return misuse("--excluded-status %d: want 403, 404, 410 or 500", p.Status)
	}
	if p.Share != "" && !slices.Contains([]policy.Sharing{policy.ShareNone, policy.SharePublic, policy.ShareAll}, p.Share) {
		return misuse("--share %q: want all, public or none", p.Share)
	}
	modes := []policy.Mode{policy.Sync, policy.Async, policy.None, policy.Redirect, policy.AsyncRedirect}
	if p.Download != "" && !slices.Contains(modes, p.Download) {
		return misuse("--download-mode %q: want sync, async, none, redirect or async_redirect", p.Download)
	}
	if p.RedirectTo != "" {
		if err := policy.CheckURL(p.RedirectTo); err != nil {
			return misuse("--redirect-to: %w", err)
		}
	}
	if p.Hooks.Timeout < 0 || p.Hooks.TTL < 0 {
		return misuse("--hook-timeout and --hook-ttl: want times above zero")
	}
	return nil
}
