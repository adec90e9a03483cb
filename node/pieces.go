package node

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/meshproxy/meshproxy/store"
)

const (
	pieceSize = 512 << 10
	// maxPieces bounds what a head may announce.
	maxPieces = 4096
)

// pieced is what lies in pieces under a prefix, because the store bounds a value. The
// head names the pieces of one save; those of the save before are deleted after it.
type pieced struct {
	s      *store.Store
	prefix string // ends in a slash
}

type piecesHead struct {
	Save   string `json:"save"` // part of the key of each piece
	Pieces int    `json:"pieces"`
}

func (p pieced) key(h piecesHead, i int) string { return fmt.Sprintf("%s%s/%06d", p.prefix, h.Save, i) }

// load reads what a head names.
func (p pieced) load(head []byte) ([]byte, error) {
	var h piecesHead
	if err := json.Unmarshal(head, &h); err != nil {
		return nil, err
	}
	if h.Pieces < 0 || h.Pieces > maxPieces {
		return nil, fmt.Errorf("%d pieces", h.Pieces)
	}
	var text bytes.Buffer
	for i := range h.Pieces {
		piece, err := p.s.Meta(p.key(h, i))
		if err != nil {
			return nil, err
		}
		text.Write(piece)
	}
	return text.Bytes(), nil
}

// save writes pieces, and has keep write their head. After a crash in between, what was
// there before is there.
func (p pieced) save(text []byte, keep func(head []byte) error) error {
	h := piecesHead{Save: rand.Text()}
	for ; len(text) > 0; h.Pieces++ {
		n := min(len(text), pieceSize)
		if err := p.s.SetMeta(p.key(h, h.Pieces), text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := keep(head); err != nil {
		return err
	}
	return p.dropBut(h.Save)
}

// dropBut deletes all pieces but those of one save.
func (p pieced) dropBut(save string) error {
	var old []string
	err := p.s.Metas(p.prefix, func(name string, _ []byte) error {
		if path.Dir(name) != p.prefix+save {
			old = append(old, name)
		}
		return nil
	})
	for _, name := range old {
		err = errors.Join(err, p.s.SetMeta(name, nil))
	}
	return err
}
