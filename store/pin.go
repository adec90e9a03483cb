package store

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"
)

// Limits of pins.
const (
	maxPins    = 10_000
	maxPattern = 1 << 10
)

// Pin keeps all zips that match a pattern from being dropped by GC. A pattern is
// one or more globs for module paths, separated by commas, as in GOPRIVATE; after
// an "@" a glob for the version may follow, as in "example.test/acme/*@v1.*".
func (s *Store) Pin(pattern string) error {
	if _, err := parsePin(pattern); err != nil {
		return err
	}
	pins, err := s.Pins()
	if err != nil {
		return err
	}
	if len(pins) >= maxPins {
		return fmt.Errorf("pin %q: %d patterns are pinned, more are not allowed", pattern, len(pins))
	}
	return s.setValue(key(spacePin, pattern), stamped(s.o.Clock().Unix(), nil), true)
}

// Unpin takes a pattern back; ErrNotFound when it is not pinned.
func (s *Store) Unpin(pattern string) error {
	if _, err := s.value(key(spacePin, pattern)); errors.Is(err, ErrNotFound) {
		return fmt.Errorf("unpin %q: %w", pattern, err)
	}
	return s.setValue(key(spacePin, pattern), nil, true)
}

// Pins lists the patterns that are pinned, sorted.
func (s *Store) Pins() ([]string, error) {
	var list []string
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{spacePin}, nil, false, func(item *badger.Item) error {
			list = append(list, string(bytes.Clone(item.Key()[1:])))
			return nil
		})
	})
	return list, err
}

type pin struct{ paths, version string }

func parsePin(pattern string) (pin, error) {
	var p pin
	if len(pattern) > maxPattern || pattern == "" {
		return p, fmt.Errorf("pin of %d bytes: want 1 to %d", len(pattern), maxPattern)
	}
	p.paths, p.version, _ = strings.Cut(pattern, "@")
	for _, glob := range append(strings.Split(p.paths, ","), p.version) {
		if _, err := path.Match(glob, ""); err != nil {
			return p, fmt.Errorf("pin %q: %w", pattern, err)
		}
	}
	if p.paths == "" {
		return p, fmt.Errorf("pin %q: no module path", pattern)
	}
	return p, nil
}

func (p pin) match(m module.Version) bool {
	if !module.MatchPrefixPatterns(p.paths, m.Path) {
		return false
	}
	ok, err := path.Match(p.version, m.Version)
	return p.version == "" || ok && err == nil
}

// pinned returns a function that reports whether a module version is pinned.
func (s *Store) pinned() (func(module.Version) bool, error) {
	patterns, err := s.Pins()
	if err != nil {
		return nil, err
	}
	pins := make([]pin, len(patterns))
	for i, pattern := range patterns {
		if pins[i], err = parsePin(pattern); err != nil {
			return nil, err
		}
	}
	return func(m module.Version) bool {
		for _, p := range pins {
			if p.match(m) {
				return true
			}
		}
		return false
	}, nil
}
