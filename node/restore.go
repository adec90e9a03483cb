package node

import (
	"context"
	"errors"
	"io"

	"github.com/meshproxy/meshproxy/store"
)

// Restore makes a data directory of a backup; see store.Restore. A backup has an
// office's place in its mesh, but not the key that it is bound to. As a new office
// the directory forgets that place and keeps the modules; else a node starts on it
// only when the old one's key is put back.
func Restore(ctx context.Context, dir string, r io.Reader, newOffice bool, progress func(store.Progress)) error {
	if err := store.Restore(ctx, dir, r, store.Options{}, progress); err != nil || !newOffice {
		return err
	}
	s, err := openStore(ctx, dir, store.Options{ScrubRate: -1})
	if err != nil {
		return err
	}
	return errors.Join(forgetPlace(s), s.Close())
}

func forgetPlace(s *store.Store) error {
	var names []string
	err := s.Metas(meshPrefix, func(name string, _ []byte) error {
		names = append(names, name)
		return nil
	})
	for _, name := range names {
		err = errors.Join(err, s.SetMeta(name, nil))
	}
	return err
}
