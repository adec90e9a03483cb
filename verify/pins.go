package verify

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// MaxPins is how many pins a node keeps, about a hundred large go.sum files.
const MaxPins = 1 << 18

// Pin is what the operator says about a mod or a zip, from a go.sum file. No
// other source outranks it.
type Pin struct {
	Name   Name
	Digest Digest
	Origin string // file and line that it was read from
}

// mismatch is the error for p, which comes after old and disagrees with it.
func (p Pin) mismatch(old Pin) error {
	return &MismatchError{Name: p.Name, Want: old.Digest, WantBy: "pin " + old.Origin,
		Got: p.Digest, GotBy: "pin " + p.Origin}
}

// Pins is a set of pins, at most one for each name. The zero value is empty and
// ready to use, by several goroutines at once.
type Pins struct {
	mu sync.RWMutex
	m  map[Name]Pin // guarded by mu
}

// Add puts all of pins into the set, or none. A pin that repeats a known one
// changes nothing; one that disagrees is a *MismatchError.
func (s *Pins) Add(pins ...Pin) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := make(map[Name]Pin)
	for _, p := range pins {
		if p.Name.Kind != Mod && p.Name.Kind != Zip || len(p.Origin) > maxGoSumLine {
			return fmt.Errorf("pin of %s: want a mod or a zip, from a place with a name of up to %d bytes", p.Name, maxGoSumLine)
		}
		if err := p.Name.Check(); err != nil {
			return fmt.Errorf("pin %s: %w", p.Origin, err)
		}
		for _, known := range []map[Name]Pin{s.m, fresh} {
			if old, ok := known[p.Name]; ok && old.Digest != p.Digest {
				return p.mismatch(old)
			}
		}
		if _, ok := s.m[p.Name]; !ok {
			fresh[p.Name] = p
		}
	}
	if len(s.m)+len(fresh) > MaxPins {
		return fmt.Errorf("%d pins: at most %d allowed", len(s.m)+len(fresh), MaxPins)
	}
	if s.m == nil {
		s.m = make(map[Name]Pin)
	}
	for n, p := range fresh {
		s.m[n] = p
	}
	return nil
}

// Remove takes the pins of both files of m out of the set and returns how many
// there were.
func (s *Pins) Remove(m module.Version) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.m)
	delete(s.m, Name{Module: m, Kind: Mod})
	delete(s.m, Name{Module: m, Kind: Zip})
	return before - len(s.m)
}

// Lookup returns the pin of n, if there is one.
func (s *Pins) Lookup(n Name) (Pin, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.m[n]
	return p, ok
}

// List returns all pins, sorted by module path, version and kind.
func (s *Pins) List() []Pin {
	s.mu.RLock()
	list := make([]Pin, 0, len(s.m))
	for _, p := range s.m {
		list = append(list, p)
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b Pin) int {
		return cmp.Or(cmp.Compare(a.Name.Module.Path, b.Name.Module.Path),
			semver.Compare(a.Name.Module.Version, b.Name.Module.Version),
			cmp.Compare(a.Name.Module.Version, b.Name.Module.Version),
			cmp.Compare(a.Name.Kind, b.Name.Kind))
	})
	return list
}

// wirePin is a pin as Encode writes it. Numbers are never reused.
type wirePin struct {
	Path    string `cbor:"1,keyasint"`
	Version string `cbor:"2,keyasint"`
	Kind    string `cbor:"3,keyasint"`
	Digest  []byte `cbor:"4,keyasint"`
	Origin  string `cbor:"5,keyasint"`
}

var pinsMode = must(strictDecoding(MaxPins).DecMode())

// Encode writes the set for DecodePins. Equal sets have equal encodings.
func (s *Pins) Encode() []byte {
	list := s.List()
	wire := make([]wirePin, len(list))
	for i, p := range list {
		wire[i] = wirePin{p.Name.Module.Path, p.Name.Module.Version, string(p.Name.Kind), p.Digest[:], p.Origin}
	}
	return must(encMode.Marshal(wire)) // strings and bytes always encode
}

// DecodePins reads what Encode wrote, and checks it as Add does. Empty data is an
// empty set.
func DecodePins(data []byte) (*Pins, error) {
	s := new(Pins)
	if len(data) == 0 {
		return s, nil
	}
	var wire []wirePin
	if err := decodeExact(pinsMode, data, &wire); err != nil {
		return nil, fmt.Errorf("list of pins: %w", err)
	}
	pins := make([]Pin, len(wire))
	for i, w := range wire {
		pins[i] = Pin{Name: Name{Module: module.Version{Path: w.Path, Version: w.Version}, Kind: Kind(w.Kind)}, Origin: w.Origin}
		if copy(pins[i].Digest[:], w.Digest) != len(w.Digest) || len(w.Digest) != len(pins[i].Digest) {
			return nil, fmt.Errorf("list of pins: digest of %d bytes for %s", len(w.Digest), pins[i].Name)
		}
	}
	if err := s.Add(pins...); err != nil {
		return nil, fmt.Errorf("list of pins: %w", err)
	}
	if len(s.m) != len(pins) {
		return nil, errors.New("list of pins: a name occurs twice")
	}
	return s, nil
}
