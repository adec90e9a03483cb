package main

import (
	ma "github.com/multiformats/go-multiaddr"
	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

// reachFlags say how other offices get to this one. Hardly anybody needs them.
func reachFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{
			Name: "announce", EnvVars: env("announce"), Category: catMesh,
			Usage: "tell other offices this address, too: `MULTIADDR` of a forwarded port, for example",
		},
		&cli.StringSliceFlag{
			Name: "peer", EnvVars: env("peer"), Category: catMesh,
			Usage: "dial the member at this `MULTIADDR`, which ends in /p2p/ID, whatever else is known of it",
		},
		&cli.BoolFlag{
			Name: "behind-nat", EnvVars: env("behind-nat"), Category: catMesh,
			Usage: "nobody can dial this office: be reached through others from the start on",
		},
		&cli.BoolFlag{
			Name: "port-map", EnvVars: env("port-map"), Category: catMesh, Value: true,
			Usage: "ask the router for a port by UPnP or NAT-PMP, where it knows them",
		},
		&cli.BoolFlag{
			Name: "no-lan", EnvVars: env("no-lan"), Category: catMesh,
			Usage: "do not look for members on the local network by mDNS",
		},
	}
}

// reach makes the node's settings of those flags.
func reach(c *cli.Context) (node.Reach, error) {
	r := node.Reach{
		Announce: c.StringSlice("announce"), Peers: c.StringSlice("peer"),
		BehindNAT: c.Bool("behind-nat"), PortMap: c.Bool("port-map"),
	}
	for _, text := range r.Announce {
		if _, err := ma.NewMultiaddr(text); err != nil {
			return r, misuse("--announce %q: want a multiaddr, like /ip4/203.0.113.7/tcp/4911: %w", text, err)
		}
	}
	for _, text := range r.Peers {
		a, err := ma.NewMultiaddr(text)
		if err == nil {
			_, err = a.ValueForProtocol(ma.P_P2P)
		}
		if err != nil {
			return r, misuse("--peer %q: want a multiaddr that ends in /p2p/ID, as the other office prints it: %w", text, err)
		}
	}
	return r, nil
}
