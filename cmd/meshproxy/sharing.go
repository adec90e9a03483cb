package main

import (
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/node"
)

// Limits of what goes over the links to other offices, by the names of their flags.
const (
	limitUp       = "limit-up"
	limitDown     = "limit-down"
	limitPeerUp   = "limit-peer-up"
	limitPeerDown = "limit-peer-down"
)

// sharingFlags are those of what an office does for the others.
func sharingFlags() []cli.Flag {
	const unit = ": `SIZE` a second like 2MiB, or off (default: off)"
	return []cli.Flag{
		&cli.IntFlag{
			Name: "replicas", EnvVars: env("replicas"), Value: node.DefaultReplicas, Category: catMesh,
			Usage: "see that so many offices (`N`) hold each zip; 1 makes no copies",
		},
		sizeFlag(limitUp, "send no more than this to all other offices together"+unit, catMesh),
		sizeFlag(limitDown, "receive no more than this from all other offices together"+unit, catMesh),
		sizeFlag(limitPeerUp, "send no more than this to any one office"+unit, catMesh),
		sizeFlag(limitPeerDown, "receive no more than this from any one office"+unit, catMesh),
	}
}

func sharing(c *cli.Context) (node.Sharing, error) {
	s := node.Sharing{Replicas: c.Int("replicas")}
	if s.Replicas < 1 || s.Replicas > maxReplicas {
		return s, misuse("--replicas %d: want 1 to %d", s.Replicas, maxReplicas)
	}
	for name, to := range map[string]*int64{
		limitUp: &s.Up.Total, limitPeerUp: &s.Up.PerPeer, limitDown: &s.Down.Total, limitPeerDown: &s.Down.PerPeer,
	} {
		text := c.String(name)
		if strings.EqualFold(text, "off") {
			continue
		}
		n, err := size(c, name)
		if err != nil {
			return s, misuse("--%s %q: want a size like 2MiB, which is meant for a second, or off", name, text)
		}
		if n > 0 && n < exchange.MinBandwidth {
			return s, misuse("--%s %q: want %s or more: below that, transfers count as broken off", name, text, bytesText(exchange.MinBandwidth))
		}
		*to = n
	}
	return s, nil
}

// maxReplicas is more than any mesh has a use for.
const maxReplicas = 1000

// printReplicas tells where the copies of zips are.
func printReplicas(c *cli.Context, zips []node.Replica) error {
	t := newTable(c.App.Writer, "module", "version", "copies", "in the offices")
	for _, z := range zips {
		t.AppendRow([]any{z.Path, z.Version.Version, strconv.Itoa(len(z.Offices)), strings.Join(z.Offices, ", ")})
	}
	return printTable(c.App.Writer, t)
}
