package exchange

import (
	"bytes"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// shares reports whether p may have, or learn anything of, the module of a path.
func (x *Exchange) shares(p peer.ID, path string) bool {
	return x.cfg.Share == nil || p == x.self || x.cfg.Share(p, path)
}

// Public reports whether every other member may learn of a module. What is not
// public is not to be told where anybody can ask, as in the DHT: its nodes answer
// whoever knows a root.
func (x *Exchange) Public(path string) bool {
	return x.cfg.Share == nil || !slices.ContainsFunc(x.cfg.Members.Members(), func(p peer.ID) bool { return !x.shares(p, path) })
}

// sharing returns those of ids that may learn of a module, in their order.
func (x *Exchange) sharing(ids []peer.ID, path string) []peer.ID {
	if x.cfg.Share == nil {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(p peer.ID) bool { return !x.shares(p, path) })
}

// lookupInfix stands in the key of a lookup in a checksum database, which ends in
// the path of the database's own protocol.
const lookupInfix = " sumdb lookup/"

// keyPath is the path of the module that an answer is about: what stands before
// the first space of its key, or, in a lookup in a checksum database, what is
// looked up.
func keyPath(key string) string {
	if _, escaped, ok := strings.Cut(key, lookupInfix); ok {
		escaped, _, _ = strings.Cut(escaped, "@")
		if path, err := module.UnescapePath(escaped); err == nil {
			return path
		}
	}
	return keyHome(key)
}

// path is that of the module that a claim is about.
func (c *claimed) path() string {
	if c.name != (verify.Name{}) {
		return c.name.Module.Path
	}
	return keyPath(c.key)
}

// listingPath is the path of the module whose listing this is: every name in it
// begins with it.
func listingPath(text []byte) string {
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	_, name, _ := bytes.Cut(line, []byte("  "))
	path, _, _ := bytes.Cut(name, []byte{'@'})
	return string(path)
}
