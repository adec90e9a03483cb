package upstream

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/meshproxy/meshproxy/protocol"
)

// MaxSumDB is the largest answer of a checksum database that is read, in bytes.
// A full tile of hashes has 8 KiB; tiles of records are below 100 KiB.
const MaxSumDB = 1 << 20

// routeTTL is how long the way to a checksum database is remembered: long enough
// that a cold build asks "supported" once, short enough to follow a proxy that
// changes its mind.
const routeTTL = 10 * time.Minute

// sumdbRoutes remembers which proxy, if any, serves a database.
type sumdbRoutes struct {
	mu     sync.Mutex
	known  map[string]route // by name of the database; guarded by mu
	search singleflight.Group
}

type route struct {
	via   *proxy
	until time.Time
	path  string // below via's base
}

// SumDB asks checksum database name, one of Options.Databases, for sub ("latest", "lookup/M@V" escaped, or
// "tile/..."), by the go command's rules: directly if it has a URL of its own there,
// else through the first proxy of the list that supports the database, and directly
// if none does. An error to support it
// that is not 404 or 410 means that the database is unavailable, unless "|"
// follows. Errors of the way are not remembered.
func (u *Upstreams) SumDB(ctx context.Context, name, sub string) ([]byte, error) {
	if err := protocol.CheckSumDBPath(sub); err != nil {
		return nil, err
	}
	if _, ok := u.o.Databases[name]; !ok {
		return nil, protocol.NotFound("checksum database %.200q is none of this node's", name)
	}
	r, err := u.route(ctx, name)
	if err != nil {
		return nil, err
	}
	if sub == "supported" {
		return nil, nil
	}
	return r.via.get(ctx, "checksum database "+name+" "+sub, r.path+sub, MaxSumDB)
}

// route finds the way to a database, once for all who ask at the same time and
// have passed through the same nodes.
func (u *Upstreams) route(ctx context.Context, name string) (route, error) {
	u.sumdb.mu.Lock()
	r, ok := u.sumdb.known[name]
	u.sumdb.mu.Unlock()
	if ok && time.Now().Before(r.until) {
		return r, nil
	}
	found := u.sumdb.search.DoChan(name+" "+protocol.Hops(ctx), func() (any, error) {
		// The search outlives whoever asked first, but not u.
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(u.life, cancel)()
		return u.findRoute(ctx, name)
	})
	select {
	case got := <-found:
		r, _ := got.Val.(route)
		return r, got.Err
	case <-ctx.Done():
		return route{}, failure("checksum database "+name, "list", context.Cause(ctx))
	}
}

func (u *Upstreams) findRoute(ctx context.Context, name string) (any, error) {
	r, err := u.askRoute(ctx, name)
	if err != nil {
		return nil, err
	}
	r.until = time.Now().Add(routeTTL)
	u.sumdb.mu.Lock()
	defer u.sumdb.mu.Unlock()
	if u.sumdb.known == nil {
		u.sumdb.known = make(map[string]route)
	}
	u.sumdb.known[name] = r
	return r, nil
}

func (u *Upstreams) askRoute(ctx context.Context, name string) (route, error) {
	if u.o.Databases[name] != "" { // who names a URL wants that one
		p, err := u.database(name)
		return route{via: p}, err
	}
	for _, e := range u.entries {
		p, ok := e.source.(*proxy)
		if !ok {
			break // "direct" and "off" end the list; both mean the database itself
		}
		path := "sumdb/" + name + "/"
		_, err := p.get(ctx, "checksum database "+name, path+"supported", MaxSumDB)
		if err == nil {
			return route{via: p, path: path}, nil
		}
		if !e.fallback && !protocol.IsNotFound(err) {
			return route{}, err
		}
	}
	p, err := u.database(name)
	return route{via: p}, err
}

// database returns the database itself as a place to ask.
func (u *Upstreams) database(name string) (*proxy, error) {
	at := u.o.Databases[name]
	if at == "" {
		at = "https://" + name
	}
	p, err := newProxy(at, u.client, u.auth, u.o)
	if err != nil {
		return nil, protocol.Errorf(http.StatusBadGateway, "checksum database %.200q: %w", name, err)
	}
	return p, nil
}
