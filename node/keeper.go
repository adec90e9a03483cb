package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// keeper answers what an operator asks of an office's store and of its place in
// the mesh, whether the node runs or not.
type keeper struct {
	store   *store.Store
	pins    *verify.Pins
	pinning sync.Mutex                 // held while pins are changed, here and on disk
	place   func() (*mesh.Mesh, error) // this node in the mesh
	audit   *audit
}

// Pin implements Control.
func (k *keeper) Pin(_ context.Context, pattern string) error { return k.store.Pin(pattern) }

// Unpin implements Control.
func (k *keeper) Unpin(_ context.Context, pattern string) error {
	err := k.store.Unpin(pattern)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%q is not pinned; the pinned patterns are in: meshproxy pin", pattern)
	}
	return err
}

// Pinned implements Control.
func (k *keeper) Pinned(context.Context) ([]string, error) {
	list, err := k.store.Pins()
	return append([]string{}, list...), err
}

// GC implements Control.
func (k *keeper) GC(ctx context.Context, o Limits, progress func(store.Progress)) (*Collected, error) {
	r, err := k.store.GC(ctx, store.GCOptions{MaxSize: o.MaxSize, MaxAge: o.MaxAge, DryRun: o.DryRun, Reclaim: true, Progress: progress})
	if err != nil {
		return nil, err
	}
	return &Collected{Dropped: zips(r.Dropped), Kept: zips(r.Kept), Pinned: r.Pinned, Freed: r.FreedBytes, Disk: r.DiskAfter}, nil
}

func zips(held []store.Held) []Zip {
	list := []Zip{}
	for _, h := range held {
		list = append(list, Zip{Version: h.Module, Size: h.Size, Read: h.Read})
	}
	return list
}

// Invite implements Control.
func (k *keeper) Invite(_ context.Context, inv Invitation) (string, error) {
	m, err := k.place()
	if err != nil {
		return "", err
	}
	return invite(m, inv)
}

// Invitations implements Control.
func (k *keeper) Invitations(context.Context) ([]OpenInvitation, error) {
	m, err := k.place()
	if err != nil {
		return nil, err
	}
	list := []OpenInvitation{}
	for _, i := range m.Invitations() {
		open := OpenInvitation{
			ID: i.Credential.Subject().String(), By: m.OfficeOf(i.By), Role: i.Role.String(), Office: i.Office,
			Expires: i.Expires.UTC(), Uses: i.Uses, Joined: []string{}, Withdrawn: i.Withdrawn,
		}
		for _, p := range i.Admitted {
			open.Joined = append(open.Joined, p.String())
		}
		list = append(list, open)
	}
	return list, nil
}

// Withdraw implements Control.
func (k *keeper) Withdraw(_ context.Context, id string) error {
	m, err := k.place()
	if err != nil {
		return err
	}
	return m.Withdraw(id)
}

// Revoke implements Control.
func (k *keeper) Revoke(_ context.Context, r Revocation) ([]string, error) {
	m, err := k.place()
	if err != nil {
		return nil, err
	}
	out, err := m.Revoke(r.Who, r.Reason)
	ids := []string{}
	for _, p := range out {
		ids = append(ids, p.String())
	}
	return ids, err
}

// Leave implements Control.
func (k *keeper) Leave(ctx context.Context) error {
	m, err := k.place()
	if err != nil {
		return err
	}
	return m.Leave(ctx)
}

// Rotate implements Control.
func (k *keeper) Rotate(ctx context.Context, without []string) error {
	m, err := k.place()
	if err != nil {
		return err
	}
	var out []peer.ID
	for _, s := range without {
		p, err := peer.Decode(s)
		if err != nil {
			return fmt.Errorf("member %q: want a peer ID, as in: meshproxy peers: %w", s, err)
		}
		out = append(out, p)
	}
	return m.Rotate(ctx, out...)
}

// Peers implements Control.
func (k *keeper) Peers(context.Context) ([]Peer, error) {
	m, err := k.place()
	if err != nil {
		return nil, err
	}
	return peersOf(m), nil
}

// below reports whether path is prefix or below it.
func below(prefix, path string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

// Releases implements Control.
func (k *keeper) Releases(ctx context.Context, prefix string, each func(Release) error) error {
	return k.store.Releases(ctx, func(r store.Release) error {
		if !below(prefix, r.Module.Path) {
			return nil
		}
		out, err := release(k.store, r)
		if err != nil {
			return err
		}
		return each(out)
	})
}
