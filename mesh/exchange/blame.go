package exchange

import "github.com/libp2p/go-libp2p/core/peer"

// Blame notes that p handed over what is not what it was said to be, when only the
// caller could find that out: a record whose proof does not check, a false answer.
// It counts as much as bytes that do not hash.
func (x *Exchange) Blame(p peer.ID, err error) { x.liar(p, err) }

// Lies says how often p lied within the last day.
func (x *Exchange) Lies(p peer.ID) int { return x.health.recentLies(p) }

// Traffic says how many bytes were sent to p and received from it since the start,
// files, records, questions and answers together.
func (x *Exchange) Traffic(p peer.ID) (sent, received uint64) { return x.limits.had(p) }

func (h *health) recentLies(p peer.ID) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	if c := h.peers[p]; c != nil {
		for _, t := range c.lies {
			if h.now().Sub(t) <= lieMemory {
				n++
			}
		}
	}
	return n
}
