// Package dashboard shows an office to people: a few pages of HTML that stay up to
// date by themselves.
//
// It promises that
//
//   - it only reads: no request to it changes anything;
//   - all text of modules, offices and errors is hostile and is escaped; nothing is
//     loaded from elsewhere, and no script or style is inline, which the pages' own
//     policy (CSP) enforces;
//   - a page costs the same however many modules are held: lists come in pages and
//     out of an index, and watchers share one look at the office a second;
//   - the pages say everything without script, colour or picture, too;
//   - it answers to names that are this office's only (Options.Hosts).
//
// Else it does not know who may see it: that is for whoever mounts the handler.
package dashboard

import (
	"context"
	"embed"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
)

// Path is where the pages expect to be mounted.
const Path = "/ui/"

// Office is what the dashboard shows; *node.Node is one.
type Office interface {
	Status(ctx context.Context) (*node.Status, error)
	Health(ctx context.Context) (node.Health, error)
	Peers(ctx context.Context) ([]node.Peer, error)
	Conflicts(ctx context.Context) ([]node.Conflict, error)
	Events(seq uint64, most int) []node.Event
	History() node.History
	Find(ctx context.Context, text, token string, limit int) (node.Found, error)
	Look(ctx context.Context, m module.Version) (*node.Detail, error)
}

// Options are the settings of a dashboard; the zero value works.
type Options struct {
	// Docs is put before a module path to make a link to its documentation. Default:
	// https://, which leads to where most modules say they live.
	Docs string
	// Hosts are the names by which browsers may ask for the pages, beside IP addresses,
	// localhost and names without a dot. Others are refused (421) where there is no TLS,
	// so that no page of a stranger reads these by a name of its own.
	Hosts []string
	Log   *slog.Logger // default: none
}

//go:embed assets
var assets embed.FS

const (
	pageSize = 50
	// recentEvents is how many requests the feed shows, of those that are remembered.
	recentEvents, rememberedEvents = 25, 256
	maxConflicts                   = 200
	maxQuery                       = 1 << 10 // of a search, in bytes
)

type dashboard struct {
	office Office
	o      Options
	pages  *pages

	watchers chan struct{} // holds one for each

	mu   sync.Mutex
	last *overview // guarded by mu; of a moment ago
	made time.Time // guarded by mu
}

// New returns the handler of the pages below Path.
func New(office Office, o Options) http.Handler {
	if o.Docs == "" {
		o.Docs = "https://"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &dashboard{office: office, o: o, pages: parsePages(o.Docs), watchers: make(chan struct{}, maxWatchers)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"{$}", d.overviewPage)
	mux.HandleFunc("GET "+Path+"modules", d.modulesPage)
	mux.HandleFunc("GET "+Path+"module", d.modulePage)
	mux.HandleFunc("GET "+Path+"alarms", d.alarmsPage)
	mux.HandleFunc("GET "+Path+"help", d.helpPage)
	mux.HandleFunc("GET "+Path+"events", d.events)
	mux.HandleFunc("GET "+Path+"static/{name}", d.pages.static)
	return guarded(newHosts(o.Hosts).only(mux))
}

// policy lets a page load what comes from here, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// guarded tells browsers to distrust the pages.
func guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Content-Security-Policy", policy)
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("X-Frame-Options", "DENY")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cross-Origin-Opener-Policy", "same-origin")
		head.Set("Cross-Origin-Resource-Policy", "same-origin")
		head.Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

func (d *dashboard) overviewPage(w http.ResponseWriter, r *http.Request) {
	v, err := d.look(r.Context())
	d.render(w, r, "overview", v, err)
}

// found is what the page of modules shows.
type found struct {
	frame
	Query, Token string
	node.Found
}

func (d *dashboard) modulesPage(w http.ResponseWriter, r *http.Request) {
	v := found{frame: d.frame(r.Context(), "modules"), Query: strings.TrimSpace(r.FormValue("q")), Token: r.FormValue("from")}
	var err error
	if len(v.Query)+len(v.Token) > maxQuery {
		err = errLongQuery
	} else {
		v.Found, err = d.office.Find(r.Context(), v.Query, v.Token, pageSize)
	}
	d.render(w, r, "modules", v, err)
}

var (
	errLongQuery = errors.New("the search is too long")
	errNoVersion = errors.New("want MODULE@VERSION")
)

// detail is what the page of a module version shows.
type detail struct {
	frame
	*node.Detail
}

func (d *dashboard) modulePage(w http.ResponseWriter, r *http.Request) {
	path, version, ok := strings.Cut(r.FormValue("m"), "@")
	if !ok || len(path)+len(version) > maxQuery {
		d.render(w, r, "module", nil, errNoVersion)
		return
	}
	look, err := d.office.Look(r.Context(), module.Version{Path: path, Version: version})
	d.render(w, r, "module", detail{d.frame(r.Context(), "modules"), look}, err)
}

// alarms is what the page of alarms shows.
type alarms struct {
	frame
	Conflicts []node.Conflict
	More      int // conflicts that are not shown
}

func (d *dashboard) alarmsPage(w http.ResponseWriter, r *http.Request) {
	v := alarms{frame: d.frame(r.Context(), "alarms")}
	list, err := d.office.Conflicts(r.Context())
	v.Conflicts = list[:min(len(list), maxConflicts)]
	v.More = len(list) - len(v.Conflicts)
	d.render(w, r, "alarms", v, err)
}

func (d *dashboard) helpPage(w http.ResponseWriter, r *http.Request) {
	v := help{frame: d.frame(r.Context(), "help")}
	st, err := d.office.Status(r.Context())
	if err == nil {
		v.URL, v.Data = clientURL(st.URL, r), st.Data
	}
	d.render(w, r, "help", v, err)
}

// help is what the page for those who begin shows.
type help struct {
	frame
	URL, Data string
}

// render writes a page, or why there is none.
func (d *dashboard) render(w http.ResponseWriter, r *http.Request, page string, data any, err error) {
	status := http.StatusOK
	if err != nil {
		status = statusOf(err)
		if status == http.StatusInternalServerError {
			d.o.Log.Warn("a page could not be made", "page", page, "err", err)
		}
		page, data = "error", problem{frame: d.frame(r.Context(), ""), Text: err.Error()}
	}
	d.pages.write(w, status, page, data)
}

// problem is what an error page shows.
type problem struct {
	frame
	Text string
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, errLongQuery), errors.Is(err, errNoVersion):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}
