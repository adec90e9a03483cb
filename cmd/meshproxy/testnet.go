package main

import (
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/meshproxy/meshproxy/testnet/up"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

func testnetCommand() *cli.Command {
	return group(&cli.Command{
		Name:  "testnet",
		Usage: "try and measure whole meshes on this machine",
	}, testnetUpCommand(), testnetBenchCommand(), serveFilesCommand())
}

// described are offices as --office tells them, to be read when the usual line is known.
type described []string

// String implements cli.Generic.
func (d *described) String() string { return "" }

// Set implements cli.Generic.
func (d *described) Set(text string) error {
	*d = append(*d, text)
	return nil
}

func testnetUpCommand() *cli.Command {
	const defaultOffices = 5
	return command(&cli.Command{
		Name:  "up",
		Usage: "bring up a mesh of offices on this machine, with slow lines between them",
		Description: `Offices are processes of this program, in a directory that goes with them. The first one
alone has an upstream. Commands are read from standard input: help lists them, and
everything ends with it. When it is no terminal, the first command that fails ends
everything with status 1.

Without --root offices meet through proxies on loopback. With it, which takes root on
Linux, each has a network namespace, and packets.

Examples:

   meshproxy testnet up
   meshproxy testnet up --offices 3 --rtt 120ms --rate 20mbit
   meshproxy testnet up --office name=berlin,rate=1gbit --office name=lima,rate=20mbit,rtt=240ms
   sudo meshproxy testnet up --root --loss 0.01 --office name=head --office name=home,nat=easy,rate=50mbit
   printf 'run office2 prefetch example.com/m@v1.0.0\nkill office1\nstats\n' | meshproxy testnet up --json`,
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.IntFlag{Name: "offices", Value: defaultOffices, Usage: "bring up this `NUMBER` of offices"},
			&cli.GenericFlag{Name: "office", Value: new(described), Usage: "the first office, and again for each next one, where they are not all alike: `SPEC` is name=NAME and what differs of rate=20mbit,rtt=120ms,nat=easy (or hard; with --root)"},
			&cli.BoolFlag{Name: "root", Usage: "give each office a network of its own, with packets: takes root"},
			&cli.DurationFlag{Name: "rtt", Value: 50 * time.Millisecond, Usage: "`TIME` there and back between two offices"},
			&cli.StringFlag{Name: "rate", Value: "100mbit", Usage: "what an office's line carries in a second, each way, in `BITS`: 100mbit, 1gbit"},
			&cli.DurationFlag{Name: "jitter", Usage: "up to so much `TIME` more, each way"},
			&cli.Float64Flag{Name: "loss", Usage: "`PART` of the packets that are lost, 0 to 1; with --root"},
			&cli.Float64Flag{Name: "reorder", Usage: "`PART` of the packets that are overtaken by later ones, 0 to 1; with --root"},
			&cli.StringFlag{Name: "upstream", Usage: "the first office's upstream, a `URL` or off", DefaultText: "go env GOPROXY"},
			&cli.StringFlag{Name: "sumdb", Usage: "check modules with this database, `SPEC` is written like GOSUMDB; off for none", DefaultText: "go env GOSUMDB"},
		},
	}, testnetUp)
}

func testnetUp(c *cli.Context) error {
	usual := up.Line{RTT: c.Duration("rtt")}
	var err error
	if usual.Rate, err = wan.ParseRate(c.String("rate")); err != nil {
		return misuse("--rate %w", err)
	}
	var offices []up.Office
	for _, text := range *c.Generic("office").(*described) {
		o, err := up.ParseOffice(text, usual)
		if err != nil {
			return misuse("--office: %w", err)
		}
		offices = append(offices, o)
	}
	total := c.Int("offices")
	if len(offices) > total && c.IsSet("offices") {
		return misuse("--offices %d: %d are described with --office", total, len(offices))
	}
	if total < 1 || total > up.MaxOffices {
		return misuse("--offices %d: want 1 to %d", total, up.MaxOffices)
	}
	cfg := up.Config{
		Offices: up.Fill(offices, total, usual), Root: c.Bool("root"),
		Jitter: c.Duration("jitter"), Loss: c.Float64("loss"), Reorder: c.Float64("reorder"),
		Upstream: c.String("upstream"), SumDB: c.String("sumdb"), JSON: c.Bool("json"),
		Prompt: isTerminal(c.App.Reader) && !c.Bool("json"),
	}
	if err := cfg.Check(); err != nil {
		return errMisuse{err}
	}
	if cfg.Bin, err = os.Executable(); err != nil {
		return fmt.Errorf("testnet up: which program offices run: %w", err)
	}
	if err := up.Run(c.Context, cfg, c.App.Reader, c.App.Writer); err != nil {
		return fmt.Errorf("testnet up: %w", err)
	}
	return nil
}

// isTerminal reports whether somebody types what is read.
func isTerminal(r any) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
