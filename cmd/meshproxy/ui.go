package main

import (
	"net"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/dashboard"
)

const (
	uiOn  = "on"
	uiOff = "off"
)

// uiFlags say whether there are pages for people, and where.
func uiFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "ui", EnvVars: env("ui"), Value: uiOn, Category: catServe,
			Usage: "show this office to browsers at /ui/: on, off, or at a `HOST:PORT` of its own",
		},
		&cli.StringFlag{
			Name: "docs", EnvVars: env("docs"), Value: "https://", Category: catServe,
			Usage: "the pages link to a module's documentation at this `URL` with the module's path behind it",
		},
	}
}

// checkUI looks at the value of --ui.
func checkUI(c *cli.Context) error {
	switch at := c.String("ui"); at {
	case "", uiOn, uiOff:
		return nil
	default:
		if _, _, err := net.SplitHostPort(at); err != nil {
			return misuse("--ui %q: want on, off or HOST:PORT", at)
		}
		return nil
	}
}

// mountUI adds the pages to a node that does not run yet.
func mountUI(c *cli.Context, n *node.Node, cfg node.Config) error {
	at := c.String("ui")
	switch at {
	case uiOff:
		return nil
	case uiOn:
		at = ""
	}
	return n.Mount(dashboard.Path, at, dashboard.New(n, dashboard.Options{Docs: c.String("docs"), Log: cfg.Log}))
}
