package up

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/meshproxy/meshproxy/testnet/wan"
)

// command is one that a line begins with.
type command struct {
	name, args, what string
	least, most      int // arguments; most < 0 is any number
	do               func(ctx context.Context, r *room, args []string) error
}

func (c command) usage() string { return strings.TrimSpace(c.name + " " + c.args) }

// commands are all but quit. They are not a variable, because help is one of them.
func commands() []command {
	return []command{
		{"cut", "A [B]", "nothing passes between A and B, or A and everybody", 1, 2, cut(true)},
		{"cut-way", "A B", "nothing passes from A to B; the way back stays", 2, 2, cutWay},
		{"heal", "[A [B]]", "everything passes again: everywhere, or there", 0, 2, cut(false)},
		{"rate", "A 20mbit", "what the line of A carries in a second", 2, 2, setRate},
		{"rtt", "A 120ms", "time there and back to an office like A", 2, 2, setRTT},
		{"kill", "A", "end the process, at once", 1, 1, each((*room).kill)},
		{"stop", "A", "have it end in good order", 1, 1, each((*room).stop)},
		{"start", "A", "start it again on its data", 1, 1, each((*room).again)},
		{"freeze", "A", "stop it where it is, as a machine that hangs", 1, 1, each((*room).freeze)},
		{"thaw", "A", "let a frozen one go on", 1, 1, each((*room).thaw)},
		{"offices", "", "how each is used, and its line", 0, 0, func(_ context.Context, r *room, _ []string) error { return r.welcome() }},
		{"wait", "", "until all that run are connected with each other", 0, 0, wait},
		{"stats", "", "members, releases, what was served, and bytes between offices", 0, 0, stats},
		{"run", "A COMMAND ...", "a command of meshproxy on the data of A: run A ls", 2, -1, run},
		{"log", "A", "the end of what it logged", 1, 1, each((*room).log)},
		{"sleep", "5s", "wait, in a script", 1, 1, sleep},
		{"help", "", "this list; A may be all", 0, 0, help},
	}
}

func help(_ context.Context, r *room, _ []string) error {
	t := plainTable()
	for _, c := range commands() {
		t.AppendRow(table.Row{c.usage(), c.what})
	}
	t.AppendRow(table.Row{"quit", "end everything"})
	return r.print(t)
}

// do is one line.
func (r *room) do(ctx context.Context, name string, args []string) error {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		return fmt.Errorf("there is no command %q; type help", name)
	}
	c := all[i]
	if len(args) < c.least || c.most >= 0 && len(args) > c.most {
		return fmt.Errorf("want: %s", c.usage())
	}
	return c.do(ctx, r, args)
}

// who are the offices of a name.
func (r *room) who(name string) ([]*office, error) {
	if name == everybody {
		return r.offices, nil
	}
	var names []string
	for _, o := range r.offices {
		if o.name == name {
			return []*office{o}, nil
		}
		names = append(names, o.name)
	}
	return nil, fmt.Errorf("there is no office %q; there are %s", name, strings.Join(names, ", "))
}

// each is a command that does the same to each office that is named.
func each(do func(r *room, ctx context.Context, o *office) error) func(context.Context, *room, []string) error {
	return func(ctx context.Context, r *room, args []string) error {
		who, err := r.who(args[0])
		errs := []error{err}
		for _, o := range who {
			if err := do(r, ctx, o); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", o.name, err))
			}
		}
		return errors.Join(errs...)
	}
}

var (
	errRuns    = errors.New("it is running")
	errRunsNot = errors.New("it is not running; start it first")
)

// stopTime is how long an office may take to end in good order.
const stopTime = 30 * time.Second

func (r *room) kill(_ context.Context, o *office) error {
	if !o.isRunning() {
		return errRunsNot
	}
	o.running.Kill()
	o.running = nil
	return nil
}

func (r *room) stop(ctx context.Context, o *office) error {
	if !o.isRunning() {
		return errRunsNot
	}
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	if err := o.running.Stop(ctx); err != nil {
		return err
	}
	o.running = nil
	return nil
}

func (r *room) again(ctx context.Context, o *office) error {
	if o.isRunning() {
		return errRuns
	}
	return r.start(ctx, o, false)
}

func (r *room) freeze(_ context.Context, o *office) error {
	if !o.isRunning() {
		return errRunsNot
	}
	return o.running.Freeze()
}

func (r *room) thaw(_ context.Context, o *office) error {
	if !o.isRunning() {
		return errRunsNot
	}
	return o.running.Thaw()
}

func (r *room) log(_ context.Context, o *office) error {
	if o.running == nil {
		return errRunsNot
	}
	_, err := fmt.Fprint(r.out, o.running.Log())
	return err
}

// run is a command of meshproxy on an office's data directory.
func run(ctx context.Context, r *room, args []string) error {
	who, err := r.who(args[0])
	if err != nil {
		return err
	}
	for _, o := range who {
		if o.running == nil {
			return fmt.Errorf("%s: %w", o.name, errRunsNot)
		}
		text, err := o.running.Run(ctx, args[1], args[2:]...)
		fmt.Fprint(r.out, text)
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return nil
}

// waitTime is how long offices may take to find each other again: they try with
// growing pauses.
const waitTime = 2 * time.Minute

// wait waits until all offices that run are connected with each other.
func wait(ctx context.Context, r *room, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	for {
		states, alone := r.states(ctx), []string(nil)
		var running []state
		for _, s := range states {
			if s.Running {
				running = append(running, s)
			}
		}
		for _, s := range running {
			if s.Status == nil {
				alone = append(alone, s.Name+" says nothing")
			} else if s.Status.Connected < len(running)-1 {
				alone = append(alone, fmt.Sprintf("%s has %d of %d", s.Name, s.Status.Connected, len(running)-1))
			}
		}
		if len(alone) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not connected: %s: %w", strings.Join(alone, ", "), ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func sleep(ctx context.Context, _ *room, args []string) error {
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func setRate(_ context.Context, r *room, args []string) error {
	who, err := r.who(args[0])
	if err != nil {
		return err
	}
	bits, err := wan.ParseRate(args[1])
	if err != nil {
		return err
	}
	for _, o := range who {
		o.line.Rate = bits
		r.lines.setRate(o.name, bits)
	}
	return nil
}

func setRTT(_ context.Context, r *room, args []string) error {
	who, err := r.who(args[0])
	if err != nil {
		return err
	}
	rtt, err := time.ParseDuration(args[1])
	if err != nil || rtt < 0 || rtt > maxRTT {
		return fmt.Errorf("%q: want a time of at most %v: 120ms", args[1], maxRTT)
	}
	var errs []error
	for _, o := range who {
		o.line.RTT = rtt
	}
	for _, o := range who {
		errs = append(errs, r.setLatency(o))
	}
	return errors.Join(errs...)
}

// ends are the names that one end of a cut may have.
func (r *room) ends(name string) ([]string, error) {
	if slices.Contains(r.lines.others(), name) {
		return []string{name}, nil
	}
	who, err := r.who(name)
	var names []string
	for _, o := range who {
		names = append(names, o.name)
	}
	return names, err
}

// cut cuts both ways between two offices, between one and all others, or everywhere;
// or heals them.
func cut(isCut bool) func(context.Context, *room, []string) error {
	return func(_ context.Context, r *room, args []string) error {
		for len(args) < 2 {
			args = append(slices.Clone(args), everybody)
		}
		return errors.Join(r.cut(args[0], args[1], isCut), r.cut(args[1], args[0], isCut))
	}
}

func cutWay(_ context.Context, r *room, args []string) error { return r.cut(args[0], args[1], true) }

// cut lets nothing pass from some to others, or lets it pass again.
func (r *room) cut(from, to string, isCut bool) error {
	left, err := r.ends(from)
	if err != nil {
		return err
	}
	right, err := r.ends(to)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range left {
		for _, b := range right {
			if a != b {
				errs = append(errs, r.lines.cut(a, b, isCut))
			}
		}
	}
	return errors.Join(errs...)
}
