package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// peerTime is how long another proxy may take until it answers.
const peerTime = time.Minute

// Peer is another module proxy to measure beside the office, each of its processes on
// data of its own.
type Peer struct{ Name, Path string }

// ParsePeer reads athens=PATH or goproxy=PATH.
func ParsePeer(text string) (Peer, error) {
	name, path, ok := strings.Cut(text, "=")
	if !ok || recipes[name] == nil || path == "" {
		return Peer{}, fmt.Errorf("%q: want athens=PATH or goproxy=PATH", text)
	}
	return Peer{name, path}, nil
}

// recipe is how a proxy is told to listen, to keep files in a directory, and to ask
// the bench's upstream.
type recipe func(b *bench, addr, data string) (args, env []string)

// sumsAt is GOSUMDB with where the database is, below the upstream.
func (b *bench) sumsAt() string { return b.sumdb + " " + b.upstream.URL() + "/sumdb/" + sumsName }

var recipes = map[string]recipe{
	"goproxy": func(b *bench, addr, data string) (args, env []string) {
		return []string{"server", "--address", addr, "--cacher-dir", filepath.Join(data, "cache"), "--temp-dir", data},
			[]string{"GOPROXY=" + b.upstream.URL(), "GOSUMDB=" + b.sumsAt()}
	},
	"athens": func(b *bench, addr, data string) (args, env []string) {
		return nil, []string{
			"ATHENS_PORT=" + addr, "ATHENS_STORAGE_TYPE=disk", "ATHENS_DISK_STORAGE_ROOT=" + data, "ATHENS_LOG_LEVEL=error",
			"ATHENS_DOWNLOAD_MODE=sync", "ATHENS_GO_BINARY_ENV_VARS=GOPROXY=" + b.upstream.URL() + ";GOSUMDB=" + b.sumsAt(),
		}
	},
}

// start runs a peer on an empty directory, and returns when it answers.
func (p Peer) start(ctx context.Context, b *bench, data string) (*server, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	args, env := recipes[p.Name](b, addr, data)
	cmd := exec.CommandContext(ctx, p.Path, args...)
	cmd.Env = append(append(os.Environ(), "GOPRIVATE=", "GONOSUMDB=", "GONOPROXY=", "GOFLAGS=-modcacherw", "GOMODCACHE="+filepath.Join(data, "mod")), env...)
	log, err := os.Create(data + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own handle
	cmd.Dir, cmd.Stdout, cmd.Stderr = data, log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	s := &server{url: "http://" + addr, pid: cmd.Process.Pid, stop: func() {
		cmd.Process.Kill() // an error means that it is gone already
		cmd.Wait()
	}}
	if err := s.answers(ctx); err != nil {
		s.stop()
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%s: %w\n%s", p.Name, err, text)
	}
	return s, nil
}

// answers waits until a server says anything at all.
func (s *server) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// contender is a proxy under measurement, with what the rounds came to.
type contender struct {
	name       string
	start      func(ctx context.Context, data string) (*server, error)
	cold, warm *way
	coldCPU    []float64 // seconds of the process, without those of commands that it runs
	loads      []*load   // what its office field holds is this contender's
}

// beside measures the office and other proxies in turns: a cold and a warm download by
// a client that asks the database itself, and then load.
func (b *bench) beside(ctx context.Context) error {
	all := []*contender{{name: "meshproxy", start: b.officeAsServer}}
	for _, p := range b.Peers {
		all = append(all, &contender{name: p.Name, start: func(ctx context.Context, data string) (*server, error) { return p.start(ctx, b, data) }})
	}
	direct := &way{name: "direct"}
	for _, c := range all {
		c.cold, c.warm = &way{name: "cold through " + c.name}, &way{name: "warm through " + c.name}
		for _, suffix := range []string{".info", ".mod", ".zip"} {
			c.loads = append(c.loads, &load{kind: suffix, suffix: suffix, requests: b.Requests})
		}
	}
	for round := range b.Rounds {
		if err := b.clientOf(ctx, direct, b.upstream.URL(), b.sumsAt()); err != nil {
			return err
		}
		for i, c := range all {
			if err := b.round(ctx, c, filepath.Join(b.work, fmt.Sprintf("beside-%d-%d", i, round))); err != nil {
				return err
			}
		}
	}
	b.out.beside(direct, all)
	return nil
}

// officeAsServer starts an office of its own mesh.
func (b *bench) officeAsServer(ctx context.Context, data string) (*server, error) {
	o, err := b.binary.Start(ctx, data, process.Options{Upstream: b.upstream.URL(), SumDB: b.sumdb})
	if err != nil {
		return nil, err
	}
	return &server{o.URL(), o.PID(), o.Kill}, nil
}

// round measures one contender once, from its start to its end.
func (b *bench) round(ctx context.Context, c *contender, data string) error {
	s, err := c.start(ctx, data)
	if err != nil {
		return err
	}
	defer s.stop()
	before := process.CPUTime(s.pid)
	if err := b.clientOf(ctx, c.cold, s.url, b.sumsAt()); err != nil {
		return err
	}
	c.coldCPU = append(c.coldCPU, (process.CPUTime(s.pid) - before).Seconds())
	if err := b.clientOf(ctx, c.warm, s.url, b.sumsAt()); err != nil {
		return err
	}
	for _, l := range c.loads {
		paths, size, err := b.tree.Paths(l.suffix)
		if err != nil {
			return err
		}
		if l.suffix == ".zip" {
			l.requests = max(1, int(5e8/size)) * len(paths)
		}
		// Some times for nothing: what is asked for the first time is not warm.
		if _, err := b.measure(ctx, s.url, paths, &load{suffix: l.suffix, requests: 3 * len(paths)}); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		rate, err := b.measure(ctx, s.url, paths, l)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		l.office.perSecond = append(l.office.perSecond, rate.perSecond)
	}
	return nil
}

func (r *report) beside(direct *way, all []*contender) {
	header := table.Row{"proxy", "cold, s", "× direct", "processor when cold, s", "warm, s", ".info/s", ".mod/s", "zips, MB/s"}
	rows := []table.Row{{"none (direct)", fmt.Sprintf("%.2f", median(direct.took)/1e9), "1.00"}}
	for _, c := range all {
		row := table.Row{
			c.name, fmt.Sprintf("%.2f", median(c.cold.took)/1e9), fmt.Sprintf("%.2f", median(ratios(c.cold.took, direct.took))),
			fmt.Sprintf("%.2f", median(c.coldCPU)), fmt.Sprintf("%.2f", median(c.warm.took)/1e9),
		}
		for _, l := range c.loads {
			row = append(row, fmt.Sprintf("%.0f", median(l.office.perSecond)))
		}
		rows = append(rows, row)
	}
	r.table(header, rows)
}

// maxCompleted bounds what complete fetches from the network.
const maxCompleted = 300

// complete fetches the zip of every version of which the tree has the go.mod only:
// other proxies ask for all files of a version when a client asks for one.
func (b *bench) complete(ctx context.Context) error {
	mods, _, err := b.tree.Paths(".mod")
	if err != nil {
		return err
	}
	var lacking []string
	for _, path := range mods {
		base := strings.TrimSuffix(path, ".mod")
		if _, err := os.Stat(filepath.Join(string(b.tree), base+".zip")); err == nil {
			continue
		}
		escapedPath, escapedVersion, _ := strings.Cut(strings.TrimPrefix(base, "/"), "/@v/")
		name, err := module.UnescapePath(escapedPath)
		if err != nil {
			return err
		}
		version, err := module.UnescapeVersion(escapedVersion)
		if err != nil {
			return err
		}
		lacking = append(lacking, name+"@"+version)
	}
	if len(lacking) > maxCompleted {
		return fmt.Errorf("%d versions of the project's graph have no zip here, and at most %d are fetched: choose a smaller --project", len(lacking), maxCompleted)
	}
	if len(lacking) == 0 {
		return nil
	}
	g, err := outside.NewGo(b.treeDir(), machineSettings()...)
	if err != nil {
		return err
	}
	_, err = g.Run(ctx, append([]string{"mod", "download"}, lacking...)...)
	return err
}
