package node

import "strings"

// origin says where an answer came from.
type origin struct {
	kind string // one of the constants below
	who  string // the office or the upstream; empty for the store
}

const (
	fromStore    = "store"
	fromPeer     = "peer"
	fromUpstream = "upstream"
)

// String is how people read it: "peer lisbon".
func (o origin) String() string { return strings.TrimSpace(o.kind + " " + o.who) }
