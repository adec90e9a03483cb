// Command bench measures whole offices, the real binary in processes of its own,
// and prints Markdown tables. The upstream is on loopback and serves a tree of
// real modules, filled once from where the machine gets its modules, so that the
// network's noise stays out; module caches of clients are on a file system in
// memory; ways of download take turns within each round, and medians are quoted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// sumsName is the name of the bench's own checksum database.
const sumsName = "sums.test"

func main() {
	if len(os.Args) == 3 && os.Args[1] == serveFiles {
		if err := fileServer(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	var c config
	flag.StringVar(&c.bin, "bin", "bin/meshproxy", "the meshproxy `binary`")
	flag.StringVar(&c.project, "project", ".", "the `directory` whose go.mod is downloaded, or a module@version whose own go.mod is")
	flag.StringVar(&c.tree, "tree", defaultTree(), "keep the upstream's modules in this `directory` from run to run")
	flag.StringVar(&c.scratch, "scratch", defaultScratch(), "module caches of clients go into this `directory`, best in memory")
	flag.StringVar(&c.data, "data", os.TempDir(), "data of offices goes into this `directory`")
	flag.StringVar(&c.only, "only", "", "measure only `what`: downloads, loads or wan")
	flag.IntVar(&c.rounds, "rounds", 5, "rounds of downloads")
	flag.IntVar(&c.requests, "requests", 20000, "requests of each load measurement for small files")
	flag.IntVar(&c.clients, "clients", 16, "connections that load comes over")
	flag.DurationVar(&c.rtt, "rtt", 0, "let the upstream answer this `time` late, as one does that is far away")
	flag.DurationVar(&c.linkRTT, "link-rtt", 50*time.Millisecond, "`time` there and back between offices of an emulated network")
	flag.Int64Var(&c.linkRate, "link-rate", 100e6, "bits a second of an office in it")
	flag.StringVar(&c.profile, "profile", "", "write what offices do in cold downloads to this `file` with the suffixes .cold, .first and .second, and those .cpu and .heap")
	flag.Var(&c.peers, "peer", "measure another proxy beside the office, and nothing else: athens=`PATH` or goproxy=PATH, any number of times")
	flag.Parse()

	if c.only != "" && c.only != onlyDownloads && c.only != onlyLoads && c.only != onlyWAN {
		fmt.Fprintf(os.Stderr, "bench: -only %s: want %s, %s or %s\n", c.only, onlyDownloads, onlyLoads, onlyWAN)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := c.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	bin, project, tree, scratch, data, profile, only string
	peers                                            peers

	rounds, requests, clients int
	rtt, linkRTT              time.Duration
	linkRate                  int64 // bits a second
}

// Values of config.only.
const (
	onlyDownloads = "downloads"
	onlyLoads     = "loads"
	onlyWAN       = "wan"
)

func defaultTree() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "meshproxy-bench")
}

func defaultScratch() string {
	const memory = "/dev/shm"
	if info, err := os.Stat(memory); err == nil && info.IsDir() {
		return memory
	}
	return os.TempDir()
}

// bench is a prepared run.
type bench struct {
	config
	binary   process.Binary
	gomod    string
	tree     outside.Tree
	upstream *outside.Server
	sumdb    string // GOSUMDB for everybody
	work     string // below data
	memory   string // below scratch
}

func (c config) run(ctx context.Context, w io.Writer) (err error) {
	b := &bench{config: c}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer b.upstream.Stop()
	defer func() { err = errors.Join(err, os.RemoveAll(b.work), os.RemoveAll(b.memory)) }()

	zips, size, err := b.tree.Paths(".zip")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s, %s/%s, %d cores, %s. %d zips of %.1f MB together, upstream on loopback, %v away, %d rounds, medians.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(),
		len(zips), float64(size)/1e6, b.rtt, b.rounds)
	if len(b.peers) > 0 {
		return b.beside(ctx, w)
	}
	if b.only == onlyWAN {
		return b.across(ctx, w)
	}
	keep, err := b.downloads(ctx, w, size)
	if err != nil {
		return err
	}
	defer keep.Kill()
	if b.only == onlyDownloads {
		return nil
	}
	if err := b.loads(ctx, w, keep); err != nil || b.only == onlyLoads {
		return err
	}
	return b.across(ctx, w)
}

func (b *bench) prepare(ctx context.Context) error {
	bin, err := filepath.Abs(b.bin)
	if err != nil {
		return err
	}
	b.binary = process.Binary(bin)
	if b.gomod, err = b.readProject(ctx); err != nil {
		return err
	}
	if b.tree, err = outside.FillTree(ctx, b.treeDir(), b.gomod, machineSettings()...); err != nil {
		return err
	}
	if len(b.peers) > 0 {
		if err := b.complete(ctx); err != nil {
			return err
		}
	}
	db, err := b.tree.Database(sumsName)
	if err != nil {
		return err
	}
	if err := db.Fill(ctx, 5000); err != nil {
		return err
	}
	b.sumdb = db.Key()
	if b.upstream, err = outside.NewServer(outside.Proxy(b.tree, db)); err != nil {
		return err
	}
	if b.rtt > 0 {
		b.upstream.Break(outside.Fault{Delay: b.rtt})
	}
	if b.work, err = os.MkdirTemp(b.data, "meshproxy-bench-"); err != nil {
		return err
	}
	b.memory, err = os.MkdirTemp(b.scratch, "meshproxy-bench-")
	return err
}

// serveFiles is the argument that turns this program into a plain file server, a
// process of its own as the office is one.
const serveFiles = "serve-files"

// fileServer serves dir with http.FileServer, prints its address, and ends when
// its standard input does.
func fileServer(dir string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	if err := http.Serve(l, http.FileServer(http.Dir(dir))); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
