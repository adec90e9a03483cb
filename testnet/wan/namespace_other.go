//go:build !linux

package wan

import "fmt"

// namespace is of Linux only.
type namespace struct{}

func available() error { return fmt.Errorf("%w: it takes Linux", ErrUnavailable) }

func (n *namespace) enter(func() error) error { return available() }

func (n *namespace) close() error { return nil }

func (s *Site) build(NAT) error { return available() }
