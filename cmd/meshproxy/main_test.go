package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"meshproxy": main})
}

// patience bounds every wait of a script; a quiet machine needs milliseconds.
const patience = 60 * time.Second

// raceOptions are those of the race detector in the programs that tests start. Left to
// itself it has each of them sleep for a second before it ends.
const raceOptions = "atexit_sleep_ms=10"

// TestScripts runs the command line as its users do. Each script has a world of
// its own outside: an upstream at $UPSTREAM and a checksum database at $SUMDB.
func TestScripts(t *testing.T) {
	archive, err := os.ReadFile("testdata/world.txtar")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			return setUp(env, string(archive))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": cmdFails, "ready": cmdReady, "get": cmdGet, "long": cmdLong, "status": cmdStatus, "flip": cmdFlip, "newer": cmdNewer, "unzip": cmdUnzip, "sleep": cmdSleep, "invitation": cmdInvitation, "token": cmdToken, "until": cmdUntil, "certificate": cmdCertificate, "netrc": cmdNetrc,
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "root": // who may write everywhere
				return os.Getuid() == 0, nil
			case "networks": // that are emulated
				return hasNetworks(), nil
			}
			return false, fmt.Errorf("unknown condition %s", name)
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// hasNetworks reports whether this machine can emulate a network.
func hasNetworks() bool {
	n, err := wan.New(1)
	return err == nil && n.Close() == nil
}

func setUp(env *testscript.Env, archive string) error {
	w := new(outside.World)
	if err := w.AddArchive(archive); err != nil {
		return err
	}
	if err := w.Grow(1, largeModule); err != nil {
		return err
	}
	db, err := w.Database("sum.example.test")
	if err != nil {
		return err
	}
	upstream, err := outside.NewServer(w)
	if err != nil {
		return err
	}
	env.Defer(upstream.Stop)
	sums, err := outside.NewServer(db)
	if err != nil {
		return err
	}
	env.Defer(sums.Stop)
	startHook(env)
	home := env.WorkDir + "/home"
	env.Vars = append(env.Vars,
		"HOME="+home, "XDG_DATA_HOME="+home+"/data", "XDG_CONFIG_HOME="+home+"/config",
		"XDG_RUNTIME_DIR=", "TMPDIR="+env.WorkDir,
		"GOENV=off", "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=-modcacherw", "GOPROXY=off", "GOSUMDB=off",
		"GOCACHE="+home+"/gocache", "GOMODCACHE="+home+"/mod",
		"GORACE="+raceOptions,
		"UPSTREAM="+upstream.URL(), "SUMDB="+db.SpecAt(sums.URL()), "DEADDB="+db.SpecAt("http://127.0.0.1:1"),
		"LOCAL=--listen=127.0.0.1:0", "P2P=--p2p=/ip4/127.0.0.1/tcp/0",
	)
	return os.MkdirAll(home, 0o700)
}

// cmdFails runs a program and wants this exit status, and one line on standard
// error that says why.
//
//	fails STATUS PROGRAM ARG...
func cmdFails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails STATUS PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		ts.Fatalf("%s: %v, want exit status %d", strings.Join(args[1:], " "), err, want)
	}
	if text := ts.ReadFile("stderr"); strings.Count(text, "meshproxy: ") != 1 {
		ts.Fatalf("want one sentence on standard error, got:\n%s", text)
	}
}

// cmdReady waits until a node serves the data directory.
//
//	ready DIR
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, err := statusOf(ctx, ts.MkAbs(args[0]))
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("no node on %s: %v", args[0], err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func statusOf(ctx context.Context, dir string) (*node.Status, error) {
	c, err := node.Dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Status(ctx)
}

// cmdStatus sets a variable to a field of a running node's status.
//
//	status DIR VARIABLE url|listen|p2p|p2p-listen
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: status DIR VARIABLE url|listen|p2p|p2p-listen")
	}
	st, err := statusOf(context.Background(), ts.MkAbs(args[0]))
	ts.Check(err)
	switch args[2] {
	case "url":
		ts.Setenv(args[1], st.URL)
	case "listen":
		ts.Setenv(args[1], strings.TrimPrefix(st.URL, "http://"))
	case "p2p":
		ts.Setenv(args[1], st.P2P[0])
	case "p2p-listen": // without the peer ID
		address, _, _ := strings.Cut(st.P2P[0], "/p2p/")
		ts.Setenv(args[1], address)
	default:
		ts.Fatalf("status: unknown field %s", args[2])
	}
}

// cmdGet asks the node that serves the data directory, wants the status, and
// makes the body the standard output of the script. HOST is the name to ask for, in
// place of the node's address.
//
//	get STATUS DIR PATH [HOST]
func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: get STATUS DIR PATH [HOST]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := statusOf(ctx, ts.MkAbs(args[1]))
	ts.Check(err)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, st.URL+args[2], nil)
	ts.Check(err)
	if len(args) == 4 {
		req.Host = args[3]
	}
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = io.Copy(&body, io.LimitReader(resp.Body, 64<<20))
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s\n", &body)
	if resp.StatusCode != want {
		ts.Fatalf("%s: status %d, want %d: %s", args[2], resp.StatusCode, want, &body)
	}
}

// cmdInvitation sets a variable to the ID of the invitation for an office.
//
//	invitation DIR VARIABLE OFFICE
func cmdInvitation(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: invitation DIR VARIABLE OFFICE")
	}
	c, err := node.Dial(context.Background(), ts.MkAbs(args[0]))
	ts.Check(err)
	defer c.Close()
	list, err := c.Invitations(context.Background())
	ts.Check(err)
	for _, i := range list {
		if i.Office == args[2] {
			ts.Setenv(args[1], i.ID)
			return
		}
	}
	ts.Fatalf("no invitation for office %s", args[2])
}

// cmdSleep waits, for what only time can end.
//
//	sleep DURATION
func cmdSleep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sleep DURATION")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	time.Sleep(d)
}

// cmdLong sets a variable to a directory whose path is so many bytes long.
//
//	long VARIABLE BYTES
func cmdLong(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: long VARIABLE BYTES")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	dir := ts.MkAbs("long")
	for len(dir) < n {
		dir += "/" + strings.Repeat("d", min(100, max(1, n-len(dir)-1)))
	}
	ts.Setenv(args[0], dir)
}

// cmdToken sets a variable to the one line of a file.
//
//	token VARIABLE FILE
func cmdToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: token VARIABLE FILE")
	}
	line, ok := strings.CutSuffix(ts.ReadFile(args[1]), "\n")
	if !ok || line == "" || strings.ContainsAny(line, " \n") {
		ts.Fatalf("token: %s holds %q, want one word on one line", args[1], line)
	}
	ts.Setenv(args[0], line)
}
