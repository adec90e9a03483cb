package node

import "time"

// Reloadable is what of a Config can be changed while the node runs.
type Reloadable struct {
	Refresh time.Duration
	MaxSize int64
	MaxAge  time.Duration
}

// Reload changes what can be changed while the node runs. Zero values mean what
// they mean in a Config.
func (n *Node) Reload(r Reloadable) {
	if r.Refresh <= 0 {
		r.Refresh = DefaultRefresh
	}
	n.refresh.Store(int64(r.Refresh))
	n.store.SetLimits(r.MaxSize, r.MaxAge)
}

// freshness is how long mutable answers are good for.
func (n *Node) freshness() time.Duration { return time.Duration(n.refresh.Load()) }
