package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// The pins lie in pieces under pinsPrefix, whose head is pinsHead. Those of
// verify.MaxPins of the longest names are fewer than maxPieces.
const (
	pinsHead   = "pins"
	pinsPrefix = "pins/"
)

// loadPins reads the pins that the operator has given the node.
func loadPins(s *store.Store) (*verify.Pins, error) {
	head, err := s.Meta(pinsHead)
	if errors.Is(err, store.ErrNotFound) {
		return new(verify.Pins), nil
	}
	var text []byte
	if err == nil {
		text, err = pieced{s, pinsPrefix}.load(head)
	}
	if err != nil {
		// Without its pins the node would serve what the operator has forbidden.
		return nil, fmt.Errorf("read the pins: %w; bring a backup back", err)
	}
	return verify.DecodePins(text)
}

// savePins replaces the pins on disk by p. After a crash in between, the old ones
// are there.
func savePins(s *store.Store, p *verify.Pins) error {
	err := pieced{s, pinsPrefix}.save(p.Encode(), func(head []byte) error { return s.SetMeta(pinsHead, head) })
	if err != nil {
		return fmt.Errorf("keep the pins: %w", err)
	}
	return nil
}

// DisagreeError says that what is held differs from what is pinned now. The pins
// stay, and what is held is not served any more.
type DisagreeError struct {
	Added    int
	Disagree []error // one *verify.MismatchError for each file
}

// maxNamed bounds how many files an error names.
const maxNamed = 5

func (e *DisagreeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d new pins, but this office holds other content for %d files, and refuses to serve it from now on:", e.Added, len(e.Disagree))
	for _, d := range e.Disagree[:min(len(e.Disagree), maxNamed)] {
		b.WriteString("\n  " + d.Error())
	}
	if more := len(e.Disagree) - maxNamed; more > 0 {
		b.WriteString("\n  and " + strconv.Itoa(more) + " more")
	}
	return b.String() + "\nsee: meshproxy conflicts"
}

// Unwrap returns the mismatches.
func (e *DisagreeError) Unwrap() []error { return e.Disagree }

// Trust implements Control.
func (k *keeper) Trust(_ context.Context, sums GoSum) (int, error) {
	list, err := verify.ParseGoSum(sums.Origin, sums.Text)
	if err != nil {
		return 0, err
	}
	k.pinning.Lock()
	defer k.pinning.Unlock()
	next, before, err := k.copyPins()
	if err != nil {
		return 0, err
	}
	if err := next.Add(list...); err != nil {
		return 0, err
	}
	added := len(next.List()) - before
	if added > 0 {
		if err := savePins(k.store, next); err != nil {
			return 0, err
		}
		if err := k.pins.Add(list...); err != nil {
			return 0, err
		}
	}
	return added, k.compareHeld(list, added)
}

// copyPins is a set like the one in use, and its size.
func (k *keeper) copyPins() (*verify.Pins, int, error) {
	next, list := new(verify.Pins), k.pins.List()
	return next, len(list), next.Add(list...)
}

// compareHeld looks for files that are held with other content than is pinned.
func (k *keeper) compareHeld(pins []verify.Pin, added int) error {
	var found []error
	for _, p := range pins {
		have, err := k.store.Record(p.Name)
		if errors.Is(err, store.ErrNotFound) || err == nil && have.Record.Digest == p.Digest {
			continue
		}
		if err != nil {
			return err
		}
		e := &verify.MismatchError{Name: p.Name, Want: p.Digest, WantBy: "pin " + p.Origin,
			Got: have.Record.Digest, GotBy: "the record signed by " + have.Signer.String()}
		found = append(found, e)
		if _, err := keepConflict(k.store, mismatchConflict(e, have)); err != nil {
			return err
		}
	}
	if len(found) == 0 {
		return nil
	}
	return &DisagreeError{Added: added, Disagree: found}
}

// Distrust implements Control.
func (k *keeper) Distrust(_ context.Context, m module.Version) (int, error) {
	k.pinning.Lock()
	defer k.pinning.Unlock()
	next, _, err := k.copyPins()
	if err != nil {
		return 0, err
	}
	if next.Remove(m) == 0 {
		return 0, fmt.Errorf("%s is not pinned; the pins are in: meshproxy trusted", m)
	}
	if err := savePins(k.store, next); err != nil {
		return 0, err
	}
	return k.pins.Remove(m), nil
}

// Trusted implements Control.
func (k *keeper) Trusted(context.Context) ([]Trusted, error) {
	list := []Trusted{}
	for _, p := range k.pins.List() {
		list = append(list, Trusted{Name: p.Name.String(), H1: p.Digest.H1(), Origin: p.Origin})
	}
	return list, nil
}

// Trust implements Control.
func (n *Node) Trust(ctx context.Context, sums GoSum) (int, error) {
	added, err := n.keeper.Trust(ctx, sums)
	n.arrivals.forget() // what was refused a moment ago may be right now
	if err != nil {
		n.log.Error("go.sum file", "file", sums.Origin, "err", err)
	}
	return added, err
}

// Distrust implements Control.
func (n *Node) Distrust(ctx context.Context, m module.Version) (int, error) {
	gone, err := n.keeper.Distrust(ctx, m)
	n.arrivals.forget()
	return gone, err
}
