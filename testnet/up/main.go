// Command up brings up a mesh of offices on this machine for people to try: real
// processes of the real binary, each with its GOPROXY line and its pages, and a
// prompt that cuts, kills and counts. The lines between them have a latency and a
// rate. With -root each office stands in a network namespace of its own, with an
// address, packets and losses (package wan); without it offices meet over loopback,
// through proxies (package toxic). Everything ends with the command.
//
// It is a program of its own and no command of meshproxy, because the binary that
// ships holds nothing of the test world.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// maxOffices is what one machine takes, each a process of some 60 MB.
const maxOffices = 50

// leastRate is what a line carries at least, in bits a second: enough for a mesh
// to hold together.
const leastRate = 10_000

// config is what the flags say.
type config struct {
	bin, upstream, sumdb string
	offices              int
	root                 bool
	path                 wan.Path
	rate                 int64 // bits a second
}

func main() {
	var c config
	var rtt time.Duration
	var rate string
	flag.StringVar(&c.bin, "bin", "bin/meshproxy", "the meshproxy `binary`")
	flag.IntVar(&c.offices, "offices", 5, "how many `offices`")
	flag.BoolVar(&c.root, "root", false, "put each office into a network of its own, which takes root; without it they meet through proxies on loopback")
	flag.DurationVar(&rtt, "rtt", 50*time.Millisecond, "`time` there and back between two offices")
	flag.DurationVar(&c.path.Jitter, "jitter", 0, "up to so much `time` more, one way")
	flag.Float64Var(&c.path.Loss, "loss", 0, "`part` of the packets that are lost, 0 to 1 (-root)")
	flag.Float64Var(&c.path.Reorder, "reorder", 0, "`part` of the packets that are overtaken by later ones, 0 to 1 (-root)")
	flag.StringVar(&rate, "rate", "100mbit", "what an office's line, or without -root each line between two, carries in a second, in `bits`: 100mbit, 1gbit")
	flag.StringVar(&c.upstream, "upstream", "", "the first office's upstream, a `URL`; the others have none. Empty is the machine's own")
	flag.StringVar(&c.sumdb, "sumdb", "", "the checksum database of all offices; empty is the machine's own")
	flag.Parse()
	c.path.Latency = rtt / 2
	if err := c.check(rate); err != nil {
		fmt.Fprintln(os.Stderr, "up:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx, os.Stdin, os.Stdout); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "up:", err)
		os.Exit(1)
	}
}

func (c *config) check(rate string) error {
	amount, isBits := strings.CutSuffix(strings.ToLower(rate), "bit")
	bits, err := humanize.ParseBytes(amount + "b") // the same prefixes, whatever they count
	if !isBits || err != nil || bits < leastRate {
		return fmt.Errorf("-rate %q: want bits a second, at least %d: 100mbit, 1gbit", rate, int(leastRate))
	}
	c.rate = int64(bits)
	switch {
	case c.offices < 1 || c.offices > maxOffices:
		return fmt.Errorf("-offices %d: want 1 to %d", c.offices, maxOffices)
	case c.path.Latency < 0 || c.path.Jitter < 0:
		return errors.New("-rtt and -jitter: want no time below zero")
	case c.path.Loss < 0 || c.path.Loss > 1:
		return fmt.Errorf("-loss %v: want 0 to 1", c.path.Loss)
	case c.path.Reorder < 0 || c.path.Reorder > 1:
		return fmt.Errorf("-reorder %v: want 0 to 1", c.path.Reorder)
	case !c.root && (c.path.Loss > 0 || c.path.Reorder > 0):
		return errors.New("-loss and -reorder: there are packets with -root only")
	}
	return nil
}

// run brings everything up, obeys lines of in until there are no more, and takes
// everything down.
func (c *config) run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	bin, err := filepath.Abs(c.bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meshproxy-testnet-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &room{config: c, bin: process.Binary(bin), dir: dir, out: out}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.open(ctx); err != nil {
		return err
	}
	r.welcome()
	return r.obey(ctx, in)
}

// obey does what each line says. A line that cannot be done says why.
func (r *room) obey(ctx context.Context, in io.Reader) error {
	lines := make(chan string)
	go func() { // ends with the process, as nobody can end a read of standard input
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		fmt.Fprint(r.out, "> ")
		select {
		case <-ctx.Done():
			fmt.Fprintln(r.out)
			return nil
		case line, ok := <-lines:
			words := strings.Fields(line)
			if !ok || len(words) > 0 && words[0] == "quit" {
				return nil
			}
			if len(words) == 0 {
				continue
			}
			if err := r.do(ctx, words[0], words[1:]); err != nil {
				fmt.Fprintln(r.out, err)
			}
		}
	}
}
