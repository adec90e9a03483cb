package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"
)

// Defaults of Options.
const (
	DefaultStall         = 30 * time.Second
	DefaultPatience      = 3 * time.Minute
	DefaultDirectTimeout = 15 * time.Minute
	DefaultFetches       = 32
	DefaultZips          = 12
	DefaultDirect        = 4
	DefaultClones        = 4 << 30
)

// ErrLoop is in the chain of errors that refuse a list which names this node.
var ErrLoop = errors.New("a node cannot be its own upstream")

// Options are the settings of Upstreams; the zero value works.
type Options struct {
	Self      string            // this node in protocol.HopHeader
	Own       []string          // host:port of this node's listeners; an upstream there is refused
	TempDir   string            // zips and runs of the go command; "": os.TempDir()
	NoProxy   string            // GONOPROXY patterns: matching modules are fetched directly only
	Databases map[string]string // checksum databases by name, with the URL to ask directly; absent ones: https://NAME
	Go        string            // the go command; "": "go"
	Env       []string          // as of os.Environ, for direct and for credentials; nil: os.Environ()
	Transport http.RoundTripper // for proxies; nil: one of its own
	Stall     time.Duration     // longest time without a byte of an answer that has begun
	Patience  time.Duration     // longest time until an answer begins; first fetches of a proxy are slow
	Deadline  time.Duration     // longest run of the go command
	Fetches   int               // small files in flight at one proxy
	Zips      int               // zips in flight at one proxy
	Direct    int               // go commands at a time
	Clones    int64             // bytes of clones kept between them
	Log       *slog.Logger      // retries and fallbacks; nil: none
}

func (o *Options) defaults() {
	o.TempDir = cmp.Or(o.TempDir, os.TempDir())
	o.Go = cmp.Or(o.Go, "go")
	o.Stall = cmp.Or(o.Stall, DefaultStall)
	o.Patience = cmp.Or(o.Patience, DefaultPatience)
	o.Deadline = cmp.Or(o.Deadline, DefaultDirectTimeout)
	o.Fetches = cmp.Or(o.Fetches, DefaultFetches)
	o.Zips = cmp.Or(o.Zips, DefaultZips)
	o.Direct = cmp.Or(o.Direct, DefaultDirect)
	o.Clones = cmp.Or(o.Clones, DefaultClones)
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Upstreams is a GOPROXY list. Its methods may be called at the same time.
type Upstreams struct {
	o       Options
	entries []entry
	direct  *direct // for "direct" and for modules that match NoProxy
	client  *http.Client
	auth    *auth
	sumdb   sumdbRoutes
	life    context.Context // ends with Close
	end     context.CancelFunc
}

// entry is one element of the list.
type entry struct {
	source   source
	fallback bool // "|" follows: any error leads to the next entry
}

// Parse reads a GOPROXY list. It does no I/O but to read credentials, and starts
// nothing. An entry that names this node is an error with ErrLoop in its chain.
func Parse(list string, o Options) (*Upstreams, error) {
	o.defaults()
	auth, err := newAuth(environ(o.Env), o.Log)
	if err != nil {
		return nil, err
	}
	u := &Upstreams{o: o, auth: auth}
	u.life, u.end = context.WithCancel(context.Background())
	u.client = newClient(o)
	u.direct = newDirect(o)
	for _, spec := range splitList(list) {
		src, err := u.newSource(spec.text)
		if err != nil {
			return nil, err
		}
		u.entries = append(u.entries, entry{src, spec.fallback})
	}
	if len(u.entries) == 0 {
		return nil, fmt.Errorf("GOPROXY list %.200q: no entries; want proxy URLs, direct or off, separated by , or |", list)
	}
	return u, nil
}

// Close closes idle connections and removes what runs of the go command left
// behind. Calls in progress end with their contexts.
func (u *Upstreams) Close() error {
	u.end()
	u.client.CloseIdleConnections()
	return u.direct.close()
}

// String is the list without passwords.
func (u *Upstreams) String() string {
	var b strings.Builder
	for i, e := range u.entries {
		b.WriteString(e.source.name())
		if i == len(u.entries)-1 {
			break
		}
		if e.fallback {
			b.WriteByte('|')
		} else {
			b.WriteByte(',')
		}
	}
	return b.String()
}

// FirstProxy is the URL of the first proxy of the list that others can ask too, "" if
// there is none. It holds no credentials: those are this node's own.
func (u *Upstreams) FirstProxy() string {
	for _, e := range u.entries {
		if p, ok := e.source.(*proxy); ok && p.base.Scheme != "file" {
			return p.base.String()
		}
	}
	return ""
}

type spec struct {
	text     string
	fallback bool
}

// splitList cuts a list as the go command does: empty elements are passed over,
// and "direct" and "off" end it.
func splitList(list string) []spec {
	var specs []spec
	for list != "" {
		text, fallback := list, false
		i := strings.IndexAny(list, ",|")
		if i >= 0 {
			text, fallback, list = list[:i], list[i] == '|', list[i+1:]
		} else {
			list = ""
		}
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		specs = append(specs, spec{text, fallback})
		if text == "direct" || text == "off" {
			break
		}
	}
	return specs
}

func (u *Upstreams) newSource(text string) (source, error) {
	switch text {
	case "off":
		return off{}, nil
	case "direct":
		return u.direct, nil
	}
	if strings.ContainsAny(text, ".:/") && !strings.Contains(text, ":/") && !filepath.IsAbs(text) {
		text = "https://" + text
	}
	return newProxy(text, u.client, u.auth, u.o)
}

// isDirectOnly reports whether a module is kept from proxies.
func (u *Upstreams) isDirectOnly(mod string) bool {
	return u.o.NoProxy != "" && module.MatchPrefixPatterns(u.o.NoProxy, mod)
}
