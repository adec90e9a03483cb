package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node/policy"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

// PolicyConfig says what an office allows. The zero value forbids nothing.
type PolicyConfig struct {
	policy.Config // its Mesh, Changed and Log are the node's
	// Status is what a client gets for what is excluded. Default: 403
	Status int
	// RedirectTo is where clients are sent for modules that are not kept here.
	// Default: the first proxy of Upstream
	RedirectTo string
	// Download, if not empty, is the mode for modules that no rule names.
	Download policy.Mode
	// CachedFromMesh has requests that forbid a fetch (/cached-only, the header
	// Disable-Module-Fetch) answered from what other offices hold too.
	CachedFromMesh bool
}

// openPolicy reads what is allowed, before anybody can ask or tell.
func (n *Node) openPolicy(context.Context) error {
	c := n.cfg.Policy.Config
	c.Log, c.Changed, c.Mesh = n.log, n.policyChanged, n.meshPolicy
	n.audit = newAudit(n.cfg.Dir, n.log)
	n.later(n.audit.Close)
	var err error
	if n.policy, err = policy.Open(c); err != nil {
		return &ConfigError{"policy", err}
	}
	n.later(func() error { n.policy.Close(); return nil })
	return nil
}

// self is this office, for rules about who may do what.
func (n *Node) self() policy.Office {
	return policy.Office{Name: n.Office(), Peer: n.mesh.ID().String()}
}

// permitted reports whether a module version may be kept here: no policy excludes
// it, and this office may hold it.
func (n *Node) permitted(m module.Version) error {
	if v := n.policy.Decide(m); v.Rule != policy.Include {
		return n.excluded(m.String(), v)
	}
	return n.mayHold(m.Path)
}

func (n *Node) mayHold(path string) error {
	if n.policy.HoldsAll() { // of a warm answer, spelling out the peer ID would be a hundredth
		return nil
	}
	if ok, source := n.policy.MayHold(n.self(), path); !ok {
		n.audit.noteOnce(AuditEntry{What: auditRefused, Module: path, Detail: "this office may not hold it, says " + source})
		return &protocol.Error{Status: n.excludedStatus(), Err: policy.ErrHold,
			Text: fmt.Sprintf("%s: office %s may not hold it, says %s", path, n.Office(), source)}
	}
	return nil
}

// errExcluded is in the chain of errors about what a policy excludes.
var errExcluded = errors.New("excluded by a policy")

// isPolicy reports whether an error says that the rules of this office, or its hooks, are
// against a module: other offices may have other rules.
func isPolicy(err error) bool {
	for _, rule := range []error{errExcluded, policy.ErrHold, policy.ErrRefused, policy.ErrHook} {
		if errors.Is(err, rule) {
			return true
		}
	}
	return false
}

func (n *Node) excluded(what string, v policy.Verdict) error {
	n.audit.noteOnce(AuditEntry{What: auditRefused, Module: what, Detail: v.Reason()})
	return &protocol.Error{Status: n.excludedStatus(), Err: errExcluded, Text: what + " is " + v.Reason()}
}

func (n *Node) excludedStatus() int {
	if n.cfg.Policy.Status != 0 {
		return n.cfg.Policy.Status
	}
	return http.StatusForbidden
}

// validated asks the hooks about a module version.
func (n *Node) validated(ctx context.Context, m module.Version) error {
	return hookError(m, n.policy.Validate(ctx, m))
}

// hookError says with which status a client hears of a hook: its refusal is an
// answer, its silence an outage.
func hookError(m module.Version, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, policy.ErrRefused):
		return protocol.Errorf(http.StatusForbidden, "%s: %w", m, err)
	case errors.Is(err, policy.ErrHook):
		return protocol.Errorf(http.StatusServiceUnavailable, "%s: %w; nothing is let through unjudged", m, err)
	}
	return err
}

// guard is the Backend that clients see: the office behind its policy. It stands
// in front of the store, so that what is held already is subject to it too.
type guard struct{ *Node }

// File implements protocol.Backend.
func (g guard) File(ctx context.Context, name verify.Name, o protocol.Options) (*protocol.Answer, error) {
	m := name.Module
	if err := g.admissible(m); err != nil {
		return nil, g.failed(err)
	}
	if g.policy.HooksEvery() {
		if err := g.validated(ctx, m); err != nil {
			return nil, g.failed(err)
		}
	}
	mode := g.download(m.Path)
	if o.CachedOnly && g.cfg.Policy.CachedFromMesh && mode.Mode == policy.Sync && !g.has(name) {
		g.collect(ctx, name)
	}
	if mode.Mode == policy.Sync || o.CachedOnly || g.has(name) {
		return g.Node.File(ctx, name, o)
	}
	return g.elsewhere(ctx, name, mode)
}

// admissible is permitted, but that clients are sent elsewhere for what is not to
// be kept here.
func (g guard) admissible(m module.Version) error {
	switch v := g.policy.Decide(m); v.Rule {
	case policy.Direct:
		return g.redirect(m.String(), "", v.Reason())
	case policy.Exclude:
		return g.excluded(m.String(), v)
	}
	return g.mayHold(m.Path)
}

// download is the mode in which a module is obtained.
func (g guard) download(path string) policy.Download {
	d := g.policy.Download(path)
	if d.Mode == "" {
		d.Mode = g.cfg.Policy.Download
	}
	if d.Mode == "" {
		d.Mode = policy.Sync
	}
	return d
}

// elsewhere answers for a file that is not held, in another mode than sync.
func (g guard) elsewhere(ctx context.Context, name verify.Name, d policy.Download) (*protocol.Answer, error) {
	if d.Mode == policy.Async || d.Mode == policy.AsyncRedirect {
		if err := g.fetchLater(ctx, name); err != nil {
			return nil, g.failed(err)
		}
	}
	switch d.Mode {
	case policy.Async:
		return nil, g.failed(protocol.NotFound("%s is not held yet by office %s; it is being fetched (download mode async)", name, g.Office()))
	case policy.Redirect, policy.AsyncRedirect:
		return nil, g.redirect(name.String(), d.URL, "download mode "+string(d.Mode))
	}
	return g.Node.File(ctx, name, protocol.Options{CachedOnly: true})
}

// fetchLater starts the work for a file, which nobody waits for.
func (g guard) fetchLater(ctx context.Context, name verify.Name) error {
	hops, of := protocol.Hops(ctx), trace.SpanContextFromContext(ctx)
	_, err := g.arrivals.join(flightKey(ctx, name.String()), limitOf(name.Kind), of, func(ctx context.Context, _ func(any)) (origin, error) {
		return g.obtain(inTrace(protocol.WithHops(ctx, hops), of), name, nil)
	})
	return err
}

// redirect sends a client to the proxy at to, or to the first one of the upstreams.
// Where there is none, the client is to go on to the next entry of its own list.
func (g guard) redirect(what, to, why string) error {
	for _, base := range []string{to, g.cfg.Policy.RedirectTo, g.upstreams.FirstProxy()} {
		if policy.CheckURL(base) == nil {
			return &protocol.Redirect{Base: base}
		}
	}
	return g.failed(protocol.NotFound("%s is not kept by office %s (%s), and there is no proxy to send you to", what, g.Office(), why))
}

// List implements protocol.Backend: versions that are excluded are left out.
func (g guard) List(ctx context.Context, path string, o protocol.Options) (*protocol.Answer, error) {
	o, err := g.module(path, o)
	if err != nil {
		return nil, err
	}
	a, err := g.Node.List(ctx, path, o)
	if err != nil {
		return nil, err
	}
	versions := protocol.ParseList(path, a.Data).Tagged
	a.Data = protocol.EncodeList(slices.DeleteFunc(versions, func(v string) bool { return !g.listed(path, v) }))
	return a, nil
}

// listed reports whether a version may be offered.
func (g guard) listed(path, version string) bool {
	return g.policy.Decide(module.Version{Path: path, Version: version}).Rule != policy.Exclude
}

// module says what holds for a question about a module of which no version is
// named.
func (g guard) module(path string, o protocol.Options) (protocol.Options, error) {
	switch v := g.policy.Module(path); v.Rule {
	case policy.Direct:
		return o, g.redirect(path, "", v.Reason())
	case policy.Exclude:
		return o, g.failed(g.excluded(path, v))
	}
	if err := g.mayHold(path); err != nil {
		return o, g.failed(err)
	}
	switch d := g.download(path); d.Mode {
	case policy.None:
		o.CachedOnly = true
	case policy.Redirect, policy.AsyncRedirect:
		return o, g.redirect(path, d.URL, "download mode "+string(d.Mode))
	}
	return o, nil
}

// Latest implements protocol.Backend: if the newest version is excluded, the newest
// one that is not.
func (g guard) Latest(ctx context.Context, path string, o protocol.Options) (*protocol.Answer, error) {
	o, err := g.module(path, o)
	if err != nil {
		return nil, err
	}
	a, err := g.Node.Latest(ctx, path, o)
	if err != nil {
		return nil, err
	}
	info, err := protocol.ParseInfo(path, "", a.Data)
	if err != nil {
		return nil, g.failed(fmt.Errorf("newest version of %s: %w", path, err))
	}
	newest := module.Version{Path: path, Version: info.Version}
	excluded := g.admissible(newest)
	if excluded == nil {
		return a, nil
	}
	list, err := g.List(ctx, path, o)
	if err != nil {
		return nil, err
	}
	if v := protocol.ParseList(path, list.Data).Latest(); v != "" {
		return g.File(ctx, infoName(path, v), o)
	}
	return nil, g.failed(excluded)
}

// Query implements protocol.Backend. What a branch stands for is known only once it
// was asked for.
func (g guard) Query(ctx context.Context, path, query string, o protocol.Options) (*protocol.Answer, error) {
	o, err := g.module(path, o)
	if err != nil {
		return nil, err
	}
	a, err := g.Node.Query(ctx, path, query, o)
	if err != nil {
		return nil, err
	}
	info, err := protocol.ParseInfo(path, query, a.Data)
	if err != nil {
		return nil, g.failed(fmt.Errorf("%s@%s: %w", path, query, err))
	}
	if err := g.admissible(module.Version{Path: path, Version: info.Version}); err != nil {
		return nil, g.failed(err)
	}
	return a, nil
}

// Catalog implements protocol.Backend: what is excluded is left out.
func (g guard) Catalog(ctx context.Context, token string, size int) ([]protocol.CatalogEntry, string, error) {
	entries, next, err := g.Node.Catalog(ctx, token, size)
	return slices.DeleteFunc(entries, func(e protocol.CatalogEntry) bool { return !g.listed(e.Module, e.Version) }), next, err
}
