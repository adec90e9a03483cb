// Command chart draws what a simulation of many members found: plots as SVG, and
// tables as Markdown on standard output.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/meshproxy/meshproxy/testnet/sim"
)

func main() {
	in := flag.String("in", "docs/scale/results.json", "results of a simulation, a `file`")
	out := flag.String("out", "docs/scale", "put the plots into this `directory`")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "chart: %q: no arguments are wanted\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := run(*in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	r, err := sim.Load(in)
	if err != nil {
		return err
	}
	if err := tables(os.Stdout, r); err != nil {
		return err
	}
	return plots(out, r)
}
