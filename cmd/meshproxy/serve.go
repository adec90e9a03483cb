package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/mesh/member"
	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/dashboard"
)

func serveCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "serve",
		Usage: "run this office's node",
		Description: `Needs no configuration: the go command's own settings say where modules come from.
Serves until interrupted.

Examples:

   meshproxy serve
   meshproxy serve --listen 0.0.0.0:3000 --office berlin
   meshproxy serve --upstream off                  # take modules from other offices only
   MESHPROXY_DATA=/srv/meshproxy meshproxy serve --config /etc/meshproxy.toml`,
		Flags: serveFlags(),
	}, func(c *cli.Context) error { return serve(c, "") })
}

func joinCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "join",
		Usage:     "enrol this office in a mesh with a token, then serve",
		ArgsUsage: "TOKEN",
		Description: `Enrols through any office that can be reached. When a node already runs on the data
directory, that one is enrolled and this command ends.

Examples:

   meshproxy join TOKEN
   meshproxy join --enrol-only TOKEN               # a service will do the serving
   meshproxy join --upstream off --listen 0.0.0.0:3000 TOKEN`,
		Flags: serveFlags(&cli.BoolFlag{
			Name: "enrol-only", EnvVars: env("enrol-only"), Category: catMesh,
			Usage: "stop after enrolling",
		}),
	}, func(c *cli.Context) error { return join(c, c.Args().First()) })
}

func join(c *cli.Context, token string) error {
	if _, err := member.ParseToken(token); err != nil {
		return misuse("join: %w", err) // before a data directory is made for nothing
	}
	running, err := node.Dial(c.Context, c.String("data"))
	if errors.Is(err, node.ErrNotRunning) {
		return serve(c, token)
	}
	if err != nil {
		return err
	}
	defer running.Close()
	joined, err := running.Join(c.Context, token)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	printJoined(c.App.Writer, joined)
	return nil
}

func printJoined(w io.Writer, j *node.Joined) {
	fmt.Fprintf(w, "Joined mesh %s as office %s (%s).\n", j.Mesh, j.Office, j.Role)
}

// gcPercent is how much garbage, in percent of what lives, waits for a collection.
// Most of what lives is a few large buffers and caches without pointers, which cost
// little to mark: half the usual garbage takes no measurable time.
const gcPercent = 50

// serve runs a node until the context ends. With a token it enrols first.
func serve(c *cli.Context, token string) error {
	cfg, err := nodeConfig(c)
	if err != nil {
		return err
	}
	if c.Bool("enrol-only") {
		cfg.Listen = nowhere // the service's address may well be taken, by the service
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if cfg.Listener, err = inheritedListener(); err != nil {
		return err
	}
	stopTracing, err := startTracing(c, &cfg)
	if err != nil {
		return err
	}
	n, err := node.New(c.Context, cfg)
	if err != nil {
		return errors.Join(startError(err), stopTracing())
	}
	if err = mountUI(c, n, cfg); err == nil {
		err = runNode(c, n, cfg, token)
	}
	return errors.Join(err, n.Close(), stopTracing())
}

func runNode(c *cli.Context, n *node.Node, cfg node.Config, token string) error {
	if token != "" {
		joined, err := n.Join(c.Context, token)
		if err != nil {
			return fmt.Errorf("join: %w", err)
		}
		printJoined(c.App.Writer, joined)
		if c.Bool("enrol-only") {
			return nil
		}
	}
	st, err := n.Status(c.Context)
	if err != nil {
		return err
	}
	printWelcome(c.App.Writer, st, n.SiteURL(dashboard.Path))
	defer supervise(c, n, cfg)()
	if err := n.Run(c.Context); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func printWelcome(w io.Writer, st *node.Status, ui string) {
	fmt.Fprintf(w, "Serving Go modules at %s\n\n", st.URL)
	t := newTable(w)
	t.AppendRow([]any{"use it", "go env -w GOPROXY=" + st.URL})
	t.AppendRow([]any{"in one shell", "export GOPROXY=" + st.URL})
	if ui != "" {
		t.AppendRow([]any{"in a browser", ui})
	}
	t.AppendRow([]any{"data", st.Data})
	t.AppendRow([]any{"office", st.Office})
	t.AppendRow([]any{"peer ID", st.PeerID})
	t.AppendRow([]any{"mesh addresses", strings.Join(st.P2P, "\n")})
	t.AppendRow([]any{"upstreams", strings.Join(st.Upstreams, ", ")})
	if st.Role == "admin" { // only admins can
		t.AppendRow([]any{"add an office", "meshproxy invite --data " + st.Data + "   prints a TOKEN; there: meshproxy join TOKEN"})
	}
	printTable(w, t)
	fmt.Fprintln(w)
}

// nowhere is where a command listens that serves nobody.
const nowhere = "127.0.0.1:0"

// nodeConfig makes the node's configuration of the flags and of go env.
func nodeConfig(c *cli.Context) (node.Config, error) {
	log, err := newLog(c)
	if err != nil {
		return node.Config{}, err
	}
	cfg := node.Config{
		Dir: c.String("data"), Listen: c.String("listen"), P2P: c.StringSlice("p2p"),
		Office: c.String("office"), Refresh: c.Duration("refresh"),
		Upstream: c.String("upstream"), SumDB: c.String("sumdb"),
		NoSumDB: c.String("nosumdb"), NoProxy: c.String("noproxy"),
		Version: thisVersion().Version, Log: log,
	}
	if cfg.Listen == "" {
		cfg.Listen = nowhere
	}
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil {
		return cfg, misuse("--listen %q: want HOST:PORT", cfg.Listen)
	}
	if cfg.Drain = c.Duration("drain"); cfg.Drain < 0 {
		return cfg, misuse("--drain %v: want a time of zero or above", cfg.Drain)
	}
	if err := errors.Join(checkUI(c), checkTracing(c)); err != nil {
		return cfg, err
	}
	if cfg.Refresh <= 0 {
		return cfg, misuse("--refresh %v: want a time above zero", cfg.Refresh)
	}
	cfg.NoLAN = c.Bool("no-lan")
	if cfg.Reach, err = reach(c); err != nil {
		return cfg, err
	}
	if cfg.Sharing, err = sharing(c); err != nil {
		return cfg, err
	}
	if cfg.MaxSize, err = size(c, "max-size"); err != nil {
		return cfg, err
	}
	if cfg.MaxAge, err = age(c, "max-age"); err != nil {
		return cfg, err
	}
	if cfg.ScrubRate, err = rate(c, "scrub-rate"); err != nil {
		return cfg, err
	}
	if err := policyConfig(c, &cfg); err != nil {
		return cfg, err
	}
	if err := clientsConfig(c, &cfg); err != nil {
		return cfg, err
	}
	return cfg, defaultsFromGo(c, &cfg)
}

// defaultsFromGo fills in what was not said with the go command's settings.
func defaultsFromGo(c *cli.Context, cfg *node.Config) error {
	if c.IsSet("upstream") && c.IsSet("sumdb") && c.IsSet("nosumdb") && c.IsSet("noproxy") {
		return nil
	}
	e, err := readGoEnv(c.Context)
	if errors.Is(err, errNoGo) && c.IsSet("upstream") && c.IsSet("sumdb") {
		return nil // without a go command there are no patterns of its
	}
	if err != nil {
		return fmt.Errorf("%w; give --upstream and --sumdb", err)
	}
	if !c.IsSet("sumdb") {
		cfg.SumDB = e.GOSUMDB
	}
	if !c.IsSet("nosumdb") {
		cfg.NoSumDB = e.GONOSUMDB
	}
	if !c.IsSet("noproxy") {
		cfg.NoProxy = e.GONOPROXY
	}
	if !c.IsSet("upstream") {
		cfg.Upstream, err = defaultUpstream(c.Context, e, func(proxy string) bool { return isOwn(cfg.Listen, proxy) })
	}
	return err
}

// isOwn reports whether a proxy of a GOPROXY list is the node that listens here:
// the same port on this machine.
func isOwn(listen, proxy string) bool {
	u, err := url.Parse(proxy)
	if err != nil || u.Host == "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	host, listenPort, err := net.SplitHostPort(listen)
	if err != nil || port != listenPort {
		return false
	}
	if strings.EqualFold(u.Hostname(), host) || strings.EqualFold(u.Hostname(), "localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		return ip.IsLoopback() || ip.IsUnspecified()
	}
	name, err := os.Hostname()
	return err == nil && strings.EqualFold(u.Hostname(), name)
}

// hostPort is the part of a node's URL that isOwn compares.
func hostPort(nodeURL string) string {
	u, err := url.Parse(nodeURL)
	if err != nil {
		return ""
	}
	return u.Host
}

// setLevel has the log of newLog begin at the level that the flag says.
func setLevel(c *cli.Context) error {
	level, ok := c.App.Metadata[metaLevel].(*slog.LevelVar)
	if !ok {
		return nil
	}
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return misuse("--log-level %q: want debug, info, warn or error", c.String("log-level"))
	}
	return nil
}

func newLog(c *cli.Context) (*slog.Logger, error) {
	level := new(slog.LevelVar)
	c.App.Metadata[metaLevel] = level
	if err := setLevel(c); err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: level}
	switch format := c.String("log-format"); format {
	case "text":
		return slog.New(slog.NewTextHandler(c.App.ErrWriter, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(c.App.ErrWriter, opts)), nil
	default:
		return nil, misuse("--log-format %q: want text or json", format)
	}
}
