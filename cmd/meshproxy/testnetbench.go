package main

import (
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/testnet/bench"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// serveFilesName is the command that the bench runs for a plain file server.
const serveFilesName = "serve-files"

// peers are what --peer names.
type peers []bench.Peer

// String implements cli.Generic.
func (p *peers) String() string { return "" }

// Set implements cli.Generic.
func (p *peers) Set(text string) error {
	peer, err := bench.ParsePeer(text)
	if err == nil {
		*p = append(*p, peer)
	}
	return err
}

func testnetBenchCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "bench",
		Usage: "measure whole offices on this machine, and print tables",
		Description: `Downloads of a project by the go command: directly, through an office, through a second
one; load of warm answers, beside a plain file server; and, as root on Linux, two offices
across an emulated network. The first time the project's modules are fetched from where
the go command gets them, and kept. Leave the machine alone meanwhile: half an hour, or
some minutes with --rounds 1.

Examples:

   meshproxy testnet bench                         # of the project in this directory
   meshproxy testnet bench --only downloads --rounds 1 --rtt 20ms
   meshproxy testnet bench --project github.com/prometheus/client_golang@v1.24.1
   sudo meshproxy testnet bench --only wan --link-rtt 200ms --link-rate 20mbit
   sudo meshproxy testnet bench --only wan --dilation 4   # as if each site had processors
   meshproxy testnet bench --peer athens=/usr/local/bin/athens --json`,
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.StringFlag{Name: "only", Usage: "measure only `WHAT`: downloads, loads or wan"},
			&cli.IntFlag{Name: "rounds", Value: 5, Usage: "`NUMBER` of rounds, the medians of which count"},
			&cli.StringFlag{Name: "project", Value: ".", Usage: "download what the go.mod in this `DIR` requires, or that of a MODULE@VERSION"},
			&cli.StringFlag{Name: "bin", TakesFile: true, DefaultText: "this program", Usage: "measure this meshproxy `FILE`"},
			&cli.GenericFlag{Name: "peer", Value: new(peers), Usage: "measure another proxy beside the office, and nothing else: `athens=PATH` or goproxy=PATH; again for each"},
			&cli.DurationFlag{Name: "rtt", Usage: "let the upstream answer this `TIME` late, as one does that is far away"},
			&cli.DurationFlag{Name: "link-rtt", Value: 50 * time.Millisecond, Usage: "`TIME` there and back between offices of an emulated network"},
			&cli.StringFlag{Name: "link-rate", Value: "100mbit", Usage: "what the line of an office in it carries in a second, in `BITS`"},
			&cli.IntFlag{Name: "dilation", Value: 1, Usage: "let time in an emulated network run this `NUMBER` of times slower, and divide what is measured by it: its sites share the processors of this machine"},
			&cli.IntFlag{Name: "requests", Value: 20000, Usage: "`NUMBER` of requests of each load for small files"},
			&cli.IntFlag{Name: "clients", Value: 16, Usage: "`NUMBER` of connections that load comes over"},
			&cli.StringFlag{Name: "tree", Value: bench.DefaultTree(), DefaultText: "meshproxy-bench in the user's cache", TakesFile: true, Usage: "keep the upstream's modules in this `DIR` from run to run"},
			&cli.StringFlag{Name: "scratch", Value: bench.DefaultScratch(), DefaultText: "in memory if there is a place", TakesFile: true, Usage: "module caches of clients go into this `DIR`"},
			&cli.StringFlag{Name: "data", Value: os.TempDir(), DefaultText: "that for temporary files", TakesFile: true, Usage: "data of offices goes into this `DIR`"},
			&cli.StringFlag{Name: "profile", TakesFile: true, Usage: "write what offices do in cold downloads to `FILE`.cold.cpu, FILE.first.cpu, FILE.second.cpu, and .heap"},
		},
	}, testnetBench)
}

func testnetBench(c *cli.Context) error {
	rate, err := wan.ParseRate(c.String("link-rate"))
	if err != nil {
		return misuse("--link-rate %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("testnet bench: which program to measure: %w", err)
	}
	cfg := bench.Config{
		Bin: self, Self: []string{self, "testnet", serveFilesName},
		Project: c.String("project"), Tree: c.String("tree"), Scratch: c.String("scratch"), Data: c.String("data"),
		Only: c.String("only"), Peers: *c.Generic("peer").(*peers), Profile: c.String("profile"),
		Rounds: c.Int("rounds"), Requests: c.Int("requests"), Clients: c.Int("clients"),
		RTT: c.Duration("rtt"), LinkRTT: c.Duration("link-rtt"), LinkRate: rate, Dilation: c.Int("dilation"), JSON: c.Bool("json"),
	}
	if bin := c.String("bin"); bin != "" {
		cfg.Bin = bin
	}
	if err := cfg.Check(); err != nil {
		return errMisuse{err}
	}
	if err := bench.Run(c.Context, cfg, c.App.Writer); err != nil {
		return fmt.Errorf("testnet bench: %w", err)
	}
	return nil
}

// serveFilesCommand is what the bench compares an office with.
func serveFilesCommand() *cli.Command {
	return command(&cli.Command{
		Name:      serveFilesName,
		Usage:     "serve the files of a directory on a free port until standard input ends",
		ArgsUsage: "DIR",
		Hidden:    true,
		Description: `The plain file server that bench compares an office with.

Examples:

   meshproxy testnet serve-files DIR`,
	}, func(c *cli.Context) error {
		return bench.ServeFiles(c.Args().First(), c.App.Reader, c.App.Writer)
	})
}
