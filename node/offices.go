package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/verify"
)

const (
	// officeSlots is how many other offices can be asked about a database, one after
	// the other, until one answers what checks: one that lies must not hide those
	// that do not. The exchange asks up to so many at once.
	officeSlots = 12
	// slotRest is for how long a slot stays with its office after it was used, so
	// that what does not check is blamed on the one that sent it.
	slotRest = time.Minute
	// heardFor is how long the answers of offices are kept: the slots ask the same
	// question one after the other.
	heardFor   = 5 * time.Second
	maxHeard   = 1024
	officeName = "other office "
)

// officeSources are the caches of other offices as sources of a checksum database,
// one for each office. All of them together ask the mesh once.
type officeSources struct {
	database string
	node     *Node
	asks     *flights[[]exchange.Answer]

	mu    sync.Mutex
	slots [officeSlots]slot       // guarded by mu
	heard map[string]heardAnswers // guarded by mu; by path
}

type slot struct {
	peer peer.ID
	used time.Time
}

type heardAnswers struct {
	answers []exchange.Answer
	until   time.Time
}

func newOfficeSources(database string, n *Node) *officeSources {
	o := &officeSources{database: database, node: n, asks: newFlights[[]exchange.Answer](nil), heard: make(map[string]heardAnswers)}
	n.later(func() error { o.asks.close(); return nil })
	return o
}

// sources lists them, by names that peer knows.
func (o *officeSources) sources() []verify.Source {
	list := make([]verify.Source, officeSlots)
	for i := range list {
		list[i] = verify.Source{Name: fmt.Sprintf("%s%d", officeName, i+1), Remote: officeSource{o, i}}
	}
	return list
}

// peer is the office behind a source, if it is one of these.
func (o *officeSources) peer(source string) (peer.ID, bool) {
	var i int
	if _, err := fmt.Sscanf(source, officeName+"%d", &i); err != nil || i < 1 || i > officeSlots {
		return "", false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.slots[i-1].peer
	return p, p != ""
}

// officeSource is one of them.
type officeSource struct {
	all  *officeSources
	slot int
}

// ReadRemote implements verify.DBRemote. That an office does not have it is no word
// of the database's.
func (s officeSource) ReadRemote(ctx context.Context, path string) ([]byte, error) {
	answers, err := s.all.ask(ctx, s.all.database+sumdbInfix+strings.TrimPrefix(path, "/"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", verify.ErrNotCached, err)
	}
	if a := s.all.of(s.slot, answers); a != nil {
		return a.Value, nil
	}
	return nil, verify.ErrNotCached
}

// ask asks the mesh, or remembers what it said a moment ago.
func (o *officeSources) ask(ctx context.Context, key string) ([]exchange.Answer, error) {
	if answers, ok := o.known(key); ok {
		return answers, nil
	}
	return o.asks.do(ctx, key, inquiryLimit, func(ctx context.Context) ([]exchange.Answer, error) {
		if answers, ok := o.known(key); ok {
			return answers, nil
		}
		answers, err := o.node.exchange().Answers(ctx, key, false)
		if err != nil && !errors.Is(err, exchange.ErrUnknown) && !errors.Is(err, exchange.ErrUnreached) {
			return nil, err
		}
		o.remember(key, answers)
		return answers, nil
	})
}

func (o *officeSources) known(key string) ([]exchange.Answer, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	h, ok := o.heard[key]
	return h.answers, ok && time.Now().Before(h.until)
}

// remember keeps answers for the slots that are asked next, and gives a slot to
// each office that answered.
func (o *officeSources) remember(key string, answers []exchange.Answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if len(o.heard) >= maxHeard {
		for k, h := range o.heard {
			if now.After(h.until) {
				delete(o.heard, k)
			}
		}
		if len(o.heard) >= maxHeard {
			clear(o.heard) // they are asked again
		}
	}
	o.heard[key] = heardAnswers{answers, now.Add(heardFor)}
	for _, a := range answers {
		o.assign(a.From, now)
	}
}

// assign gives an office a slot, if it has none and one is free; o.mu is held.
func (o *officeSources) assign(p peer.ID, now time.Time) {
	oldest := 0
	for i := range o.slots {
		if o.slots[i].peer == p {
			o.slots[i].used = now
			return
		}
		if o.slots[i].used.Before(o.slots[oldest].used) {
			oldest = i
		}
	}
	if s := &o.slots[oldest]; s.peer == "" || now.Sub(s.used) > slotRest {
		*s = slot{p, now}
	}
}

// of is the answer of the office in a slot, nil if it gave none.
func (o *officeSources) of(slot int, answers []exchange.Answer) *exchange.Answer {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(answers, func(a exchange.Answer) bool { return a.From == o.slots[slot].peer })
	if i < 0 {
		return nil
	}
	o.slots[slot].used = time.Now()
	return &answers[i]
}
