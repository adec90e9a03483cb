package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

const (
	mutableLimit = 3 * time.Minute
	// stalePatience is how long a client waits for a fresh answer when an older
	// one is at hand. The question to the upstream goes on.
	stalePatience = 3 * time.Second
)

// Keys of mutable answers, the same in every office. The module path comes first:
// it decides which offices are at home for them.
func listKey(path string) string         { return path + " list" }
func latestKey(path string) string       { return path + " latest" }
func queryKey(path, query string) string { return path + " query " + query }

// mutable is an answer that may change, and when it was known to be true.
type mutable struct {
	value []byte
	at    time.Time
	from  origin
}

func (m mutable) age() time.Duration { return max(0, time.Since(m.at)) }

// current returns the answer for a key: the one at hand while it is fresh, else
// what refresh gets. When that fails for any other reason than that the upstream
// has said no, the newest answer known, however old, comes with the error.
func (n *Node) current(ctx context.Context, key string, o protocol.Options, refresh func(context.Context) (mutable, error)) (mutable, error) {
	old, err := n.known(key)
	have := err == nil
	if have && (o.CachedOnly || old.age() < n.freshness()) {
		return old, nil
	}
	if o.CachedOnly && n.cfg.Policy.CachedFromMesh {
		if m, err := n.heard(ctx, key, checkAnswer); err == nil {
			return m, nil
		}
	}
	if o.CachedOnly {
		return mutable{}, protocol.NotFound("%s is not held by office %s, and the request forbids to fetch it", key, n.Office())
	}
	wait, cancel := ctx, context.CancelFunc(func() {})
	if have {
		wait, cancel = context.WithTimeout(ctx, stalePatience)
	}
	defer cancel()
	fresh, err := n.refreshes.do(wait, flightKey(ctx, key), mutableLimit, func(ctx context.Context) (mutable, error) {
		return n.refreshed(ctx, key, refresh)
	})
	if err == nil {
		return fresh, nil
	}
	if newer, knownErr := n.known(key); knownErr == nil {
		old = newer // it was kept while this request was waiting
	}
	return old, err
}

// catchUp keeps the newest answer that other offices know, when the upstream
// gives none.
func (n *Node) catchUp(ctx context.Context, key string) {
	if _, reached := n.reach(); reached == 0 || n.isOff() {
		return
	}
	m, err := n.heard(ctx, key, checkAnswer)
	if err == nil {
		err = n.store.SetMutable(key, m.value, m.at)
	}
	if err != nil && !errors.Is(err, exchange.ErrUnknown) {
		n.log.Debug("other offices have no answer either", "what", key, "err", err)
	}
}

func (n *Node) known(key string) (mutable, error) {
	value, at, err := n.store.Mutable(key)
	return mutable{value, at, origin{kind: fromStore}}, err
}

// refreshed gets a fresh answer and keeps it.
func (n *Node) refreshed(ctx context.Context, key string, refresh func(context.Context) (mutable, error)) (mutable, error) {
	ctx, span := n.part(ctx, "refresh", key)
	m, err := n.shared(ctx, key, n.refreshTraced(key, refresh))
	sourced(span, m.from, err)
	if err != nil {
		n.log.Info("not refreshed", "what", key, "err", err)
		n.catchUp(ctx, key)
		return m, err
	}
	if err := n.store.SetMutable(key, m.value, m.at); err != nil {
		n.log.Error("cannot keep an answer", "what", key, "err", err)
	}
	n.log.Debug("refreshed", "what", key, "from", m.from.String())
	return m, nil
}

// List implements protocol.Backend.
func (n *Node) List(ctx context.Context, path string, o protocol.Options) (*protocol.Answer, error) {
	m, err := n.current(ctx, listKey(path), o, func(ctx context.Context) (mutable, error) {
		l, err := n.upstreams.List(ctx, path)
		if err != nil {
			return mutable{}, err
		}
		text := protocol.EncodeList(append(l.Tagged, l.Pseudo...))
		return mutable{text, time.Now(), origin{fromUpstream, l.Source}}, nil
	})
	versions := protocol.ParseList(path, m.value)
	if err != nil {
		versions = protocol.NewVersions(path, append(append(versions.Tagged, versions.Pseudo...), n.versions(path)...))
		if m.at.IsZero() && len(versions.Tagged)+len(versions.Pseudo) == 0 {
			return nil, n.failed(n.notObtained("list of "+path, nil, err))
		}
		m.from = origin{kind: fromStore}
	}
	return n.answered(&protocol.Answer{Data: protocol.EncodeList(versions.Tagged), Age: n.staleAge(m)}, m.from), nil
}

// versions lists what this office holds of a module.
func (n *Node) versions(path string) []string {
	list, err := n.store.Versions(path)
	if err != nil {
		n.log.Error("cannot list versions held", "module", path, "err", err)
	}
	return list
}

// staleAge is the Age of an answer: none while it is as fresh as it is kept.
func (n *Node) staleAge(m mutable) time.Duration {
	if m.at.IsZero() {
		return 0
	}
	return m.age()
}

// Latest implements protocol.Backend.
func (n *Node) Latest(ctx context.Context, path string, o protocol.Options) (*protocol.Answer, error) {
	m, err := n.current(ctx, latestKey(path), o, func(ctx context.Context) (mutable, error) {
		f, err := n.upstreams.Latest(ctx, path)
		if err != nil {
			return mutable{}, err
		}
		defer f.Close()
		return mutable{f.Data, time.Now(), origin{fromUpstream, f.Source}}, nil
	})
	if err == nil || m.value != nil && !isAnswer(err) {
		return n.answered(&protocol.Answer{Data: m.value, Age: n.staleAge(m)}, m.from), nil
	}
	if a := n.latestHeld(path); a != nil {
		return n.answered(a, origin{kind: fromStore}), nil
	}
	return nil, n.failed(n.notObtained("newest version of "+path, nil, err))
}

// latestHeld is the .info of the newest version that this office holds, nil if
// there is none.
func (n *Node) latestHeld(path string) *protocol.Answer {
	versions := protocol.NewVersions(path, n.versions(path))
	for {
		v := versions.Latest()
		if v == "" {
			return nil
		}
		a, err := n.held(infoName(path, v))
		if err == nil {
			return a
		}
		if !errors.Is(err, store.ErrNotFound) {
			n.log.Error("cannot read what is held", "module", path, "version", v, "err", err)
		}
		versions = less(versions, v)
	}
}

// less returns versions but for one.
func less(versions protocol.Versions, gone string) protocol.Versions {
	is := func(v string) bool { return v == gone }
	versions.Tagged = slices.DeleteFunc(versions.Tagged, is)
	versions.Pseudo = slices.DeleteFunc(versions.Pseudo, is)
	return versions
}

func infoName(path, version string) verify.Name {
	return verify.Name{Module: module.Version{Path: path, Version: version}, Kind: verify.Info}
}

// Query implements protocol.Backend.
func (n *Node) Query(ctx context.Context, path, query string, o protocol.Options) (*protocol.Answer, error) {
	m, err := n.current(ctx, queryKey(path, query), o, func(ctx context.Context) (mutable, error) {
		f, err := n.upstreams.Query(ctx, path, query)
		if err != nil {
			return mutable{}, err
		}
		defer f.Close()
		return mutable{f.Data, time.Now(), origin{fromUpstream, f.Source}}, nil
	})
	if err == nil || m.value != nil && !isAnswer(err) {
		return n.answered(&protocol.Answer{Data: m.value, Age: n.staleAge(m)}, m.from), nil
	}
	return nil, n.failed(n.notObtained(path+"@"+query, nil, err))
}
