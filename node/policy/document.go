package policy

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/mod/module"
)

// Limits on a policy document.
const (
	MaxDocument  = 32 << 10 // bytes
	maxPatterns  = 1000     // of modules or offices in one rule
	maxDocRules  = 1000
	maxNameBytes = 512 // of a pattern
)

// ErrDocument says that a text is no policy document.
var ErrDocument = errors.New("bad policy document")

// Sharing says which modules may go to other offices at all.
type Sharing string

// The kinds of sharing, from the strictest on.
const (
	ShareNone   Sharing = "none"
	SharePublic Sharing = "public" // those that a checksum database covers
	ShareAll    Sharing = "all"
)

// Document is a policy as a file says it: of one office, or signed by an admin, of
// all offices of a mesh. The zero value forbids nothing but publishing.
type Document struct {
	Filter  string  `toml:"filter"` // in the format of ParseFilter
	Hook    string  `toml:"hook"`   // URL that is asked before anything new is kept
	Share   Sharing `toml:"share"`  // empty is ShareAll
	Hold    []Grant `toml:"hold"`   // which offices may hold which modules; the first that names a module counts
	Publish []Grant `toml:"publish"`
	// Downloads say how what is not here is obtained; the first that names a module
	// counts. They are an office's own: a mesh's document has none.
	Downloads []Download `toml:"download"`

	filter *Filter
}

// Grant names modules, and the offices to which it grants something.
type Grant struct {
	Modules []string `toml:"modules"` // patterns as in GOPRIVATE
	Offices []string `toml:"offices"` // names, patterns of names as path.Match knows them, or peer IDs
}

// Mode says how what is not in the store is obtained.
type Mode string

// Download modes.
const (
	Sync          Mode = "sync"           // while the client waits
	Async         Mode = "async"          // the client is told 404, and it is fetched meanwhile
	None          Mode = "none"           // only what the store holds
	Redirect      Mode = "redirect"       // the client is sent elsewhere
	AsyncRedirect Mode = "async_redirect" // the client is sent elsewhere, and it is fetched meanwhile
)

// Download is the mode for some modules.
type Download struct {
	Modules []string `toml:"modules"`
	Mode    Mode     `toml:"mode"`
	URL     string   `toml:"url"` // where clients are sent; empty: the first proxy of the upstreams
}

// ParseDocument reads a policy document, in TOML. What it does not know is an
// error: a rule that is passed over would be a rule broken.
func ParseDocument(text []byte) (*Document, error) {
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrDocument, len(text), MaxDocument)
	}
	d := new(Document)
	meta, err := toml.Decode(string(text), d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%w: there is no key %q", ErrDocument, unknown[0].String())
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return d, nil
}

// ParseMeshDocument reads the policy document of a mesh.
func ParseMeshDocument(text []byte) (*Document, error) {
	d, err := ParseDocument(text)
	if err == nil && len(d.Downloads) > 0 {
		err = fmt.Errorf("%w: download modes are each office's own", ErrDocument)
	}
	return d, err
}

func (d *Document) check() (err error) {
	if d.filter, err = ParseFilter([]byte(d.Filter)); err != nil {
		return err
	}
	if d.Share == "" {
		d.Share = ShareAll
	}
	if !slices.Contains([]Sharing{ShareNone, SharePublic, ShareAll}, d.Share) {
		return fmt.Errorf("share = %.40q: want none, public or all", d.Share)
	}
	if d.Hook != "" {
		if err := CheckURL(d.Hook); err != nil {
			return fmt.Errorf("hook: %w", err)
		}
	}
	if len(d.Hold)+len(d.Publish)+len(d.Downloads) > maxDocRules {
		return fmt.Errorf("more than %d rules", maxDocRules)
	}
	for _, g := range slices.Concat(d.Hold, d.Publish) {
		if err := g.check(); err != nil {
			return err
		}
	}
	for _, o := range d.Downloads {
		if err := o.check(); err != nil {
			return err
		}
	}
	return nil
}

func (g Grant) check() error {
	if err := checkPatterns("modules", g.Modules); err != nil {
		return err
	}
	return checkPatterns("offices", g.Offices)
}

func (o Download) check() error {
	if err := checkPatterns("modules", o.Modules); err != nil {
		return err
	}
	if !slices.Contains([]Mode{Sync, Async, None, Redirect, AsyncRedirect}, o.Mode) {
		return fmt.Errorf("mode = %.40q: want sync, async, none, redirect or async_redirect", o.Mode)
	}
	if o.URL != "" {
		return CheckURL(o.URL)
	}
	return nil
}

func checkPatterns(what string, list []string) error {
	if len(list) == 0 || len(list) > maxPatterns {
		return fmt.Errorf("%s: %d patterns, want 1 to %d", what, len(list), maxPatterns)
	}
	for _, p := range list {
		if _, err := path.Match(p, "x"); err != nil || p == "" || len(p) > maxNameBytes || strings.Contains(p, ",") {
			return fmt.Errorf("%s: bad pattern %.80q", what, p)
		}
	}
	return nil
}

// CheckURL reports whether text is a URL that can be asked.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%.80q is not an http or https URL", u.Redacted())
	}
	return nil
}

// names reports whether patterns name a module.
func names(patterns []string, modulePath string) bool {
	return module.MatchPrefixPatterns(strings.Join(patterns, ","), modulePath)
}

// Office is who is to hold or publish something. The name is what the office was
// given when it joined, or chose; the peer ID cannot be chosen.
type Office struct {
	Name string
	Peer string
}

// to reports whether the grant is to an office.
func (g Grant) to(o Office) bool {
	return slices.ContainsFunc(g.Offices, func(p string) bool {
		ok, err := path.Match(p, o.Name)
		return err == nil && ok && o.Name != "" || p == o.Peer
	})
}

// MayHold reports whether an office may hold a module: the first rule that names
// the module counts, and what none names everybody may.
func (d *Document) MayHold(o Office, modulePath string) bool {
	for _, g := range d.Hold {
		if names(g.Modules, modulePath) {
			return g.to(o)
		}
	}
	return true
}

// MayPublish reports whether an office may publish a module: a rule must say so.
func (d *Document) MayPublish(o Office, modulePath string) bool {
	return slices.ContainsFunc(d.Publish, func(g Grant) bool { return names(g.Modules, modulePath) && g.to(o) })
}

// Download returns the mode for a module; its Mode is empty if no rule names it.
func (d *Document) Download(modulePath string) Download {
	for _, o := range d.Downloads {
		if names(o.Modules, modulePath) {
			return o
		}
	}
	return Download{}
}

// Signed is a policy document as the admins of a mesh published it.
type Signed struct {
	ID      string // names this statement
	Text    []byte
	Counter uint64 // the highest one counts
	By      string // office of the admin, or its peer ID
	At      time.Time
}
