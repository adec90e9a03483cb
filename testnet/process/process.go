// Package process runs the real meshproxy binary as separate processes, one an
// office, the way an operator would: by its command line, its control socket and
// signals. Every office listens on loopback ports of its own and ends with Kill
// or Stop; Start returns when it serves.
package process

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/meshproxy/meshproxy/node"
)

// startTimeout is how long an office may take until it serves. On two cores that
// are busy with something else, joining a mesh takes some seconds.
const startTimeout = 60 * time.Second

// ErrExited is returned when an office ended before it served.
var ErrExited = errors.New("the office exited before it served")

// Binary is a meshproxy executable.
type Binary string

// Office is a running node.
type Office struct {
	bin  Binary
	data string
	url  string
	cmd  *exec.Cmd
	log  string

	exited chan struct{} // closed when the process is gone
}

// Options say how an office is started.
type Options struct {
	Token    string   // joins the mesh of this token; empty founds one or goes on with an old one
	Upstream string   // --upstream; empty leaves the default
	SumDB    string   // --sumdb; empty leaves the default
	Listen   string   // --listen; empty is a loopback port of its own
	P2P      []string // --p2p; nil is a loopback port of its own, empty leaves the default
	Flags    []string // more flags
	Env      []string // NAME=VALUE, added to this process's own
	// At starts the command somewhere else than here; nil is here. The control socket
	// is a file, so that At needs to change nothing but the network.
	At interface{ Start(*exec.Cmd) error }
}

// Start runs an office on the data directory, logging to DIR.log beside it, and
// returns when it serves.
func (b Binary) Start(ctx context.Context, data string, o Options) (*Office, error) {
	args := []string{"serve"}
	if o.Token != "" {
		args = []string{"join"}
	}
	args = append(args, "--data", data, "--listen", cmp.Or(o.Listen, "127.0.0.1:0"))
	if o.P2P == nil {
		o.P2P = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	for _, a := range o.P2P {
		args = append(args, "--p2p", a)
	}
	if o.Upstream != "" {
		args = append(args, "--upstream", o.Upstream)
	}
	if o.SumDB != "" {
		args = append(args, "--sumdb", o.SumDB)
	}
	// Copies that nobody asked for blur what a scenario counts; Flags may want them.
	args = append(append(args, "--replicas", "1"), o.Flags...)
	if o.Token != "" {
		args = append(args, o.Token)
	}
	log, err := os.Create(data + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own handle
	off := &Office{bin: b, data: data, log: log.Name(), exited: make(chan struct{})}
	off.cmd = exec.Command(string(b), args...)
	off.cmd.Stdout, off.cmd.Stderr = log, log
	off.cmd.Env = append(environ(), o.Env...)
	start := off.cmd.Start
	if o.At != nil {
		start = func() error { return o.At.Start(off.cmd) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	go func() {
		off.cmd.Wait() // what it ended with is in ProcessState
		close(off.exited)
	}()
	if err := off.ready(ctx); err != nil {
		off.Kill()
		return nil, fmt.Errorf("office on %s: %w\n%s", data, err, off.Log())
	}
	return off, nil
}

// environ is this process's environment without settings of meshproxy.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "MESHPROXY_") {
			env = append(env, kv)
		}
	}
	return env
}

// ready waits until the office answers on its control socket with an address.
func (o *Office) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		st, err := o.Status(ctx)
		if err == nil && st.Running && st.URL != "" {
			o.url = st.URL
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not serving: %w: %w", ctx.Err(), err)
		case <-o.exited:
			return fmt.Errorf("%w: %v", ErrExited, o.cmd.ProcessState)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// URL is what GOPROXY is set to.
func (o *Office) URL() string { return o.url }

// Data is the data directory.
func (o *Office) Data() string { return o.data }

// PID is the process ID.
func (o *Office) PID() int { return o.cmd.Process.Pid }

// Running reports whether the process is there.
func (o *Office) Running() bool {
	select {
	case <-o.exited:
		return false
	default:
		return true
	}
}

// Log is what the office printed so far, at most the last 8 KiB.
func (o *Office) Log() string {
	text, err := os.ReadFile(o.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8<<10):])
}

// Status asks the office, through its command line.
func (o *Office) Status(ctx context.Context) (*node.Status, error) {
	out, err := o.Run(ctx, "status", "--json")
	if err != nil {
		return nil, err
	}
	var st node.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return nil, fmt.Errorf("status --json: %w", err)
	}
	return &st, nil
}

// Invite makes a token.
func (o *Office) Invite(ctx context.Context, flags ...string) (string, error) {
	out, err := o.Run(ctx, "invite", flags...)
	return strings.TrimSpace(out), err
}

// Run runs another command on the office's data directory and returns its
// standard output.
func (o *Office) Run(ctx context.Context, command string, flags ...string) (string, error) {
	cmd := exec.CommandContext(ctx, string(o.bin), append([]string{command, "--data", o.data}, flags...)...)
	cmd.Env, cmd.WaitDelay = environ(), time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(string(o.bin)), command, err, exit.Stderr)
	}
	return string(out), err
}

// Kill ends the process at once, with nothing of its own running any more.
func (o *Office) Kill() {
	o.cmd.Process.Kill() // an error means that it is gone already
	<-o.exited
}

// Stop asks the process to end and waits until it has, or ctx is done.
func (o *Office) Stop(ctx context.Context) error {
	if err := o.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-o.exited:
		if code := o.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("office on %s: %v after SIGTERM\n%s", o.data, o.cmd.ProcessState, o.Log())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("office on %s: still there after SIGTERM: %w", o.data, ctx.Err())
	}
}

// PeakMemory is the largest resident set that the process ever had, in bytes, as
// the system accounts for it; 0 where it does not say. It counts pages of mapped
// files, which the system takes back when it wants to.
func (o *Office) PeakMemory() int64 { return o.memory("VmHWM") }

// OwnMemory is what the process holds now of memory that is no file's, in bytes;
// 0 where the system does not say.
func (o *Office) OwnMemory() int64 { return o.memory("RssAnon") }

func (o *Office) memory(field string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", o.PID()))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, field+": %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// clockTick is the unit of processor time in /proc, the same on every Linux.
const clockTick = 10 * time.Millisecond

// CPUTime is how long processors worked for the process so far; 0 where the
// system does not say.
func (o *Office) CPUTime() time.Duration { return CPUTime(o.PID()) }

// CPUTime is how long processors worked for a process so far; 0 where the system
// does not say.
func CPUTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may hold anything but the last one.
	_, fields, _ := strings.Cut(string(text[max(0, strings.LastIndex(string(text), ")")):]), " ")
	var user, system time.Duration
	values := strings.Fields(fields)
	if len(values) < 13 {
		return 0
	}
	if _, err := fmt.Sscan(values[11]+" "+values[12], &user, &system); err != nil {
		return 0
	}
	return (user + system) * clockTick
}
