package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/store"
)

// Offline answers Control from the data directory of a node that does not run. It
// holds the directory's lock until Close.
type Offline struct {
	keeper
	dir  string
	mesh *mesh.Mesh // nil until somebody asks for it
}

// errNoNode is returned for a directory that never was a node's.
var errNoNode = errors.New("no node's data is here; to make a node: meshproxy serve")

// OpenOffline opens the store in dir. It makes none: a directory without one is
// an error.
func OpenOffline(ctx context.Context, dir string) (*Offline, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "lock")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, errNoNode)
	}
	o := &Offline{dir: dir}
	o.audit = newAudit(dir, slog.Default())
	s, err := openStore(ctx, dir, store.Options{ScrubRate: -1, MayDrop: o.mayDrop})
	if err != nil {
		return nil, err
	}
	pins, err := loadPins(s)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	o.store, o.pins = s, pins
	o.place = o.openMesh
	return o, nil
}

// Close gives the directory up.
func (o *Offline) Close() error {
	var err error
	if o.mesh != nil {
		err = notCanceled(o.mesh.Close())
	}
	return errors.Join(err, o.store.Close(), o.audit.Close())
}

// openMesh brings up this node's place in the mesh without being reachable.
func (o *Offline) openMesh() (*mesh.Mesh, error) {
	if o.mesh != nil {
		return o.mesh, nil
	}
	key, err := mesh.LoadKey(o.dir, &meshState{s: o.store})
	if err != nil {
		return nil, err
	}
	cfg := Config{Dir: o.dir, P2P: []string{}, Office: hostOffice(), NoLAN: true, Log: slog.New(slog.DiscardHandler)}
	c := meshConfig(cfg, key, o.store)
	c.Announce = savedAddrs(o.store)
	o.mesh, err = mesh.New(c)
	return o.mesh, err
}

// Status implements Control.
func (o *Offline) Status(context.Context) (*Status, error) {
	st := storeStatus(o.dir, o.store)
	m, err := o.openMesh()
	if err != nil {
		return nil, err
	}
	meshStatus(st, m)
	return st, nil
}

// Join implements Control, and is an error: who joins must be reachable.
func (o *Offline) Join(context.Context, string) (*Joined, error) { return nil, ErrNotRunning }
