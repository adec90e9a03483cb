//go:build !linux

package wan

import (
	"fmt"
	"net/netip"
)

// namespace is of Linux only.
type namespace struct{}

func available() error { return fmt.Errorf("%w: it takes Linux", ErrUnavailable) }

func (n *namespace) enter(func() error) error { return available() }

func (n *namespace) close() error { return nil }

func (s *Site) build(Setup) error { return available() }

// portMapper is of Linux only.
type portMapper struct{}

func (*portMapper) close() error { return nil }

// LAN is of Linux only.
type LAN struct{}

// NewLAN returns ErrUnavailable.
func NewLAN(...*Site) (*LAN, error) { return nil, available() }

// Renumber returns ErrUnavailable.
func (*LAN) Renumber() error { return available() }

// Addr returns no address.
func (*LAN) Addr(*Site) netip.Addr { return netip.Addr{} }

// Close does nothing.
func (*LAN) Close() error { return nil }
