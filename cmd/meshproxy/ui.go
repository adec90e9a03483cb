package main

import (
	"net"
	"os"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
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
		&cli.StringSliceFlag{
			Name: "ui-host", EnvVars: env("ui-host"), Category: catServe,
			Usage: "show the pages to browsers that ask for this `NAME`, too: a reverse proxy's or a service's",
		},
		&cli.StringFlag{
			Name: "docs", EnvVars: env("docs"), Value: "https://", Category: catServe,
			Usage: "the pages link to a module's documentation at this `URL` with the module's path behind it",
		},
	}
}

// checkUI looks at the values of --ui and --ui-host.
func checkUI(c *cli.Context) error {
	for _, name := range c.StringSlice("ui-host") {
		if name == "" || strings.ContainsAny(name, "/:*@ ") {
			return misuse("--ui-host %q: want a name without scheme, port or path, like modules.example.com", name)
		}
	}
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
	return n.Mount(dashboard.Path, at, dashboard.New(n, dashboard.Options{
		Docs: c.String("docs"), Hosts: append(ownNames(at, cfg), c.StringSlice("ui-host")...), Log: cfg.Log,
	}))
}

// ownNames are the names that this office is known by, as its settings have it: that
// of the machine, those that it listens at, and those that others are told.
func ownNames(at string, cfg node.Config) []string {
	var names []string
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	for _, listen := range []string{at, cfg.Listen} {
		if name, _, err := net.SplitHostPort(listen); err == nil {
			names = append(names, name)
		}
	}
	for _, text := range cfg.Reach.Announce {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			continue // reach has refused it
		}
		for _, part := range a {
			if strings.HasPrefix(part.Protocol().Name, "dns") {
				names = append(names, part.Value())
			}
		}
	}
	return names
}
