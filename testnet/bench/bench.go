// Package bench measures whole offices, the real binary in processes of its own, and
// prints Markdown tables, or the same as JSON. The upstream is on loopback and serves a
// tree of real modules, filled once from where the machine gets its modules, so that the
// network's noise stays out; module caches of clients are on a file system in memory;
// ways of download take turns within each round, and medians are quoted.
//
// It needs the go command, and where modules come from until the tree is full.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// sumsName is the name of the bench's own checksum database.
const sumsName = "sums.test"

// Config says what is measured, and how often.
type Config struct {
	Bin string // the executable under measurement
	// Self are the words of a command that serves the files of the directory that is
	// its last argument with ServeFiles, the plain file server of comparisons.
	Self []string

	Project string // directory whose go.mod is downloaded, or MODULE@VERSION whose own go.mod is
	Tree    string // directory that keeps the upstream's modules from run to run
	Scratch string // directory for module caches of clients, best in memory
	Data    string // directory for data of offices
	Only    string // OnlyDownloads, OnlyLoads, OnlyWAN, or empty for everything
	Peers   []Peer // measure these beside the office, and nothing else
	Profile string // write what an office does when cold to files of this name with .cpu and .heap

	Rounds, Requests, Clients int           // of downloads, of each load for small files, of connections
	RTT                       time.Duration // the upstream answers so late
	LinkRTT                   time.Duration // there and back between offices of an emulated network
	LinkRate                  int64         // bits a second of an office in it
	// Dilation lets time in the emulated network run so many times slower: round trips
	// are longer and lines narrower by that, and what is measured is divided by it. The
	// sites share this machine's processors, which are so many times faster for them.
	Dilation int

	JSON bool // print one document at the end, instead of Markdown as it comes
}

// Values of Config.Only.
const (
	OnlyDownloads = "downloads"
	OnlyLoads     = "loads"
	OnlyWAN       = "wan"
)

const (
	maxOften    = 10_000_000 // bounds what is done again and again
	maxDilation = 20         // beyond, an office takes the network for broken
)

// Check says what cannot be measured.
func (c *Config) Check() error {
	if c.Only != "" && !slices.Contains([]string{OnlyDownloads, OnlyLoads, OnlyWAN}, c.Only) {
		return fmt.Errorf("only %q: want %s, %s or %s", c.Only, OnlyDownloads, OnlyLoads, OnlyWAN)
	}
	for name, n := range map[string]int{"rounds": c.Rounds, "requests": c.Requests, "clients": c.Clients} {
		if n < 1 || n > maxOften {
			return fmt.Errorf("%d %s: want 1 to %d", n, name, maxOften)
		}
	}
	if c.RTT < 0 || c.LinkRTT < 0 {
		return errors.New("a time there and back below zero")
	}
	if c.Dilation < 1 || c.Dilation > maxDilation {
		return fmt.Errorf("dilation %d: want 1 to %d", c.Dilation, maxDilation)
	}
	return nil
}

// DefaultTree is where modules are kept from run to run: in the user's cache.
func DefaultTree() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "meshproxy-bench")
}

// DefaultScratch is a directory in memory where the system has one.
func DefaultScratch() string {
	const memory = "/dev/shm"
	if info, err := os.Stat(memory); err == nil && info.IsDir() {
		return memory
	}
	return os.TempDir()
}

// bench is a prepared run.
type bench struct {
	Config
	out      *report
	binary   process.Binary
	gomod    string
	tree     outside.Tree
	upstream *outside.Server
	sumdb    string // GOSUMDB for everybody
	work     string // below data
	memory   string // below scratch
}

// Run measures, and prints to w.
func Run(ctx context.Context, c Config, w io.Writer) (err error) {
	if err := c.Check(); err != nil {
		return err
	}
	b := &bench{Config: c, out: &report{w: w, isJSON: c.JSON}}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	zips, size, err := b.tree.Paths(".zip")
	if err != nil {
		return err
	}
	b.out.say("%s, %s/%s, %d cores, %s. %d zips of %.1f MB together, upstream on loopback, %v away, %d rounds, medians.",
		time.Now().UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(),
		len(zips), float64(size)/1e6, b.RTT, b.Rounds)
	if err := b.measureAll(ctx, size); err != nil {
		return err
	}
	return b.out.end()
}

func (b *bench) measureAll(ctx context.Context, size int64) error {
	if len(b.Peers) > 0 {
		return b.beside(ctx)
	}
	if b.Only == OnlyWAN {
		return b.across(ctx)
	}
	keep, err := b.downloads(ctx, size)
	if err != nil {
		return err
	}
	defer keep.Kill()
	if b.Only == OnlyDownloads {
		return nil
	}
	if err := b.loads(ctx, keep); err != nil || b.Only == OnlyLoads {
		return err
	}
	return b.across(ctx)
}

// close removes what prepare has made, as far as it came.
func (b *bench) close() error {
	if b.upstream != nil {
		b.upstream.Stop()
	}
	var errs []error
	for _, dir := range []string{b.work, b.memory} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) prepare(ctx context.Context) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("what is measured is the go command, which is not there: %w", err)
	}
	var err error
	for _, path := range []*string{&b.Bin, &b.Tree, &b.Scratch, &b.Data} { // commands run elsewhere
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if err := runs(ctx, b.Bin); err != nil {
		return err
	}
	b.binary = process.Binary(b.Bin)
	if b.gomod, err = b.readProject(ctx); err != nil {
		return err
	}
	if b.tree, err = outside.FillTree(ctx, b.treeDir(), b.gomod, machineSettings()...); err != nil {
		return err
	}
	if len(b.Peers) > 0 {
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
	if b.RTT > 0 {
		b.upstream.Break(outside.Fault{Delay: b.RTT})
	}
	if b.work, err = os.MkdirTemp(b.Data, "meshproxy-bench-"); err != nil {
		return err
	}
	b.memory, err = os.MkdirTemp(b.Scratch, "meshproxy-bench-")
	return err
}

// runs sees that what is to be measured is a meshproxy.
func runs(ctx context.Context, bin string) error {
	out, err := exec.CommandContext(ctx, bin, "version").CombinedOutput()
	if err == nil && !strings.HasPrefix(string(out), "meshproxy ") {
		err = errors.New("it says something else of itself")
	}
	if err != nil {
		return fmt.Errorf("%s is no meshproxy that runs here: %w: %.200s", bin, err, out)
	}
	return nil
}

// ServeFiles serves dir with http.FileServer on a port of its own, prints its address
// to out, and ends when in does.
func ServeFiles(dir string, in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "http://%s\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	go func() {
		io.Copy(io.Discard, in)
		l.Close()
	}()
	if err := http.Serve(l, http.FileServer(http.Dir(dir))); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
