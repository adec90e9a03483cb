package exchange

import (
	"context"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/sync/semaphore"
)

// places keeps the streams of one protocol that this node has open to each peer below
// what the peer allows (see gate): those above would be reset, which looks as if the
// peer was gone, and often there is no other one. They wait instead.
type places struct {
	most int64 // for each peer

	mu  sync.Mutex
	all map[peer.ID]*place // guarded by mu; those that anybody has or waits for
}

type place struct {
	free  *semaphore.Weighted
	users int // guarded by places.mu
}

// newPlaces makes the places of a protocol: half of the streams that a peer allows,
// because one that has ended here may not have ended there.
func newPlaces(proto protocol.ID) *places {
	for _, p := range protocols {
		if p.id == proto {
			return &places{most: int64(p.peer) / 2, all: map[peer.ID]*place{}}
		}
	}
	panic("no protocol " + proto) // a constant of this package
}

// take waits for a place with a peer, which leave gives back.
func (s *places) take(ctx context.Context, p peer.ID) (leave func(), err error) {
	s.mu.Lock()
	at := s.all[p]
	if at == nil {
		at = &place{free: semaphore.NewWeighted(s.most)}
		s.all[p] = at
	}
	at.users++
	s.mu.Unlock()
	gone := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if at.users--; at.users == 0 {
			delete(s.all, p)
		}
	}
	if err := at.free.Acquire(ctx, 1); err != nil {
		gone()
		return nil, err
	}
	return func() { at.free.Release(1); gone() }, nil
}
