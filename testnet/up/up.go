// Package up brings up a mesh of offices on this machine for people and scripts to
// try: real processes of the real binary, each with its GOPROXY line and its pages,
// and commands that cut, kill, slow down and count. The lines between them have a
// latency and a rate. With root each office can stand in a network namespace of its
// own, with an address, packets and losses (package wan); without, offices meet over
// loopback, through proxies (package toxic). Everything ends with Run.
package up

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/meshproxy/meshproxy/testnet/process"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// Config says what is brought up.
type Config struct {
	Bin     string   // the executable that each office runs
	Offices []Office // in order; the first invites the others, and has the upstream
	Root    bool     // each office gets a network of its own, which takes root

	Jitter        time.Duration // up to so much is added to each way
	Loss, Reorder float64       // parts of the packets, 0 to 1; with Root only

	Upstream string // of the first office; empty is the machine's own
	SumDB    string // of all offices; empty is the machine's own

	JSON   bool // print JSON, one document a line
	Prompt bool // somebody types: prompt for lines, and go on after one that failed
}

// Limits on what is asked for.
const (
	// MaxOffices is what one machine takes, each a process of some 60 MB.
	MaxOffices = 50
	maxLine    = 4 << 10 // bytes of a line of commands
	maxRTT     = time.Minute
)

// Check says what cannot be brought up.
func (c *Config) Check() error {
	if len(c.Offices) < 1 || len(c.Offices) > MaxOffices {
		return fmt.Errorf("%d offices: want 1 to %d", len(c.Offices), MaxOffices)
	}
	taken := map[string]bool{}
	for i, o := range c.Offices {
		switch {
		case taken[o.Name]:
			return fmt.Errorf("office %s: there are two of that name", o.Name)
		case o.NAT != wan.NoNAT && !c.Root:
			return fmt.Errorf("office %s: a NAT takes networks of their own: --root", o.Name)
		case o.NAT != wan.NoNAT && i == 0:
			return fmt.Errorf("office %s: the first office invites the others, and stands behind no NAT", o.Name)
		}
		if err := o.check(); err != nil {
			return err
		}
		taken[o.Name] = true
	}
	switch {
	case c.Jitter < 0 || c.Jitter > maxRTT:
		return fmt.Errorf("jitter of %v: want 0 to %v", c.Jitter, maxRTT)
	case !(c.Loss >= 0 && c.Loss <= 1):
		return fmt.Errorf("loss of %v: want 0 to 1", c.Loss)
	case !(c.Reorder >= 0 && c.Reorder <= 1):
		return fmt.Errorf("reorder of %v: want 0 to 1", c.Reorder)
	case !c.Root && (c.Loss > 0 || c.Reorder > 0):
		return errors.New("loss and reorder: there are packets with --root only")
	}
	return nil
}

// Run brings everything up, obeys the lines of in until there are no more, ctx is done
// or quit is said, and takes everything down. Without c.Prompt the first line that
// cannot be done ends it with that error.
func Run(ctx context.Context, c Config, in io.Reader, out io.Writer) (err error) {
	if err := c.Check(); err != nil {
		return err
	}
	bin, err := filepath.Abs(c.Bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meshproxy-testnet-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &room{Config: c, bin: process.Binary(bin), dir: dir, out: out}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.welcome(); err != nil {
		return err
	}
	return r.obey(ctx, in)
}

// obey does what each line says.
func (r *room) obey(ctx context.Context, in io.Reader) error {
	lines, failed := make(chan string), make(chan error, 1)
	go func() { // ends with the process, as nobody can end a read of standard input
		s := bufio.NewScanner(in)
		defer func() { failed <- s.Err(); close(lines) }()
		s.Buffer(nil, maxLine)
		for s.Scan() {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		if r.Prompt {
			fmt.Fprint(r.out, "> ")
		}
		select {
		case <-ctx.Done():
			return nil
		case line, ok := <-lines:
			if !ok {
				return r.unread(<-failed)
			}
			words := strings.Fields(line)
			if len(words) == 0 || strings.HasPrefix(words[0], "#") {
				continue
			}
			if words[0] == "quit" || words[0] == "exit" {
				return nil
			}
			switch err := r.do(ctx, words[0], words[1:]); {
			case err == nil:
			case !r.Prompt:
				return fmt.Errorf("%s: %w", line, err)
			case ctx.Err() != nil: // that is why, and no news to whoever typed Ctrl-C
				return nil
			default:
				fmt.Fprintln(r.out, err)
			}
		}
	}
}

// unread says why no more lines could be read.
func (r *room) unread(err error) error {
	if err != nil {
		return fmt.Errorf("read commands, lines of at most %d bytes: %w", maxLine, err)
	}
	return nil
}

// announced is what scripts are told of an office.
type announced struct {
	Name    string `json:"name"`
	GOPROXY string `json:"goproxy"`
	UI      string `json:"ui"`
	Data    string `json:"data"` // directory, for --data of other commands
}

func (r *room) welcome() error {
	if r.JSON {
		var list []announced
		for _, o := range r.offices {
			list = append(list, announced{o.name, o.url, o.url + uiPath, o.data(r)})
		}
		return json.NewEncoder(r.out).Encode(map[string]any{"offices": list})
	}
	t := plainTable("office", "use it", "look at it", "line")
	for _, o := range r.offices {
		t.AppendRow(table.Row{o.name, "export GOPROXY=" + o.url, o.url + uiPath, o.line.String()})
	}
	if err := r.print(t); err != nil {
		return err
	}
	_, err := fmt.Fprintf(r.out, "%s alone has an upstream. Type help.\n", r.offices[0].name)
	return err
}
