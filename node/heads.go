package node

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/meshproxy/meshproxy/verify"
)

const (
	// headsPeriod is how often offices compare the tree heads that they were shown.
	// A database that shows one office another history than the rest is found out
	// within this time.
	headsPeriod = 5 * time.Minute
	// headsDelay is how long a connection may take to be let in before its office is
	// asked; many that come at once are asked together.
	headsDelay = time.Second
	headsLimit = 30 * time.Second
)

// compareHeads compares tree heads with other offices, when one connects and from
// time to time, until ctx ends.
func (n *Node) compareHeads(ctx context.Context) error {
	if len(n.databases) == 0 {
		return nil
	}
	met := make(chan struct{}, 1)
	notify := &network.NotifyBundle{ConnectedF: func(network.Network, network.Conn) {
		select {
		case met <- struct{}{}:
		default:
		}
	}}
	n.mesh.Host().Network().Notify(notify)
	defer n.mesh.Host().Network().StopNotify(notify)
	period := time.NewTicker(headsPeriod)
	defer period.Stop()
	for {
		select {
		case <-met:
		case <-period.C:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(headsDelay):
		case <-ctx.Done():
			return nil
		}
		for _, db := range n.databases {
			n.compareHead(ctx, db)
		}
	}
}

// compareHead compares the tree heads of one database.
func (n *Node) compareHead(ctx context.Context, db *verify.Database) {
	ctx, cancel := context.WithTimeout(ctx, headsLimit)
	defer cancel()
	answers, err := n.exchange().Answers(ctx, db.Name()+sumdbInfix+"latest")
	if err != nil {
		return // nobody is there, or nobody was shown one
	}
	for _, a := range answers {
		err := db.Observe(ctx, a.Value)
		switch {
		case errors.Is(err, verify.ErrProof):
			n.exchange().Blame(a.From, err)
		case errors.Is(err, verify.ErrSecurity):
			n.log.Error("another office was shown another history of a checksum database", "database", db.Name(),
				"office", n.officeOf(a.From), "err", err)
		case err != nil && ctx.Err() == nil:
			n.log.Info("cannot compare tree heads", "database", db.Name(), "office", n.officeOf(a.From), "err", err)
		}
	}
}
