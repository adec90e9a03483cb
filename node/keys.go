package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/store"
)

// ExportKeys implements Control.
func (k *keeper) ExportKeys(_ context.Context, passphrase string) (string, error) {
	m, err := k.place()
	if err != nil {
		return "", err
	}
	text, err := m.ExportKeys(passphrase)
	return string(text), err
}

// ExportKeys implements Control.
func (c *Client) ExportKeys(ctx context.Context, passphrase string) (string, error) {
	return ask[string](ctx, c, "exportkeys", passphrase)
}

// ImportKeys makes the data directory dir, which is made if it is not there and on
// which no node may run, that of the office whose keys text is an export of. It
// keeps what the directory holds. The key of another office in it is
// mesh.ErrOtherNode, unless replace says that it may go.
func ImportKeys(ctx context.Context, dir string, text []byte, passphrase string, replace bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("import keys: %w", err)
	}
	s, err := openStore(ctx, dir, store.Options{ScrubRate: -1})
	if err != nil {
		return err
	}
	return errors.Join(mesh.ImportKeys(dir, &meshState{s: s}, text, passphrase, replace), s.Close())
}
