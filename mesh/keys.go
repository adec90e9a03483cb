package mesh

import (
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"
)

// The safekeeping of keys.
const (
	pemPlain  = "MESHPROXY KEYS"
	pemSealed = "MESHPROXY ENCRYPTED KEYS"
	saltSize  = 16
	// maxExport bounds what ImportKeys reads.
	maxExport = 96 << 20
	// scrypt with 128 MiB of memory: about half a second for each guess.
	scryptN, scryptR, scryptP = 1 << 17, 8, 1
)

// Why keys cannot be imported.
var (
	// ErrExport: the text is no export of keys.
	ErrExport = errors.New("not an export of keys")
	// ErrPassphrase: the passphrase does not open it.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrOtherNode: the directory has another node's key.
	ErrOtherNode = errors.New("there is another node's key already")
)

type exported struct {
	Key    []byte            `cbor:"1,keyasint"`
	Values map[string][]byte `cbor:"2,keyasint"`
}

// OpenKeys is in every export of keys that was made without a passphrase.
const OpenKeys = "BEGIN " + pemPlain

// ExportKeys returns all that makes this node what it is in its mesh, as PEM: its
// own key, the mesh key if it has it, its credential and the roster. Whoever has
// the text and the passphrase is the node; an empty passphrase leaves it open.
func (m *Mesh) ExportKeys(passphrase string) ([]byte, error) {
	raw, err := crypto.MarshalPrivateKey(m.cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("export keys: %w", err)
	}
	if err := m.peers.save(); err != nil {
		return nil, fmt.Errorf("export keys: %w", err)
	}
	e := exported{Key: raw, Values: map[string][]byte{}}
	for _, k := range []string{stateSelf, stateRoster, stateMoves, statePeers} {
		v, err := m.cfg.State.Get(k)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("export keys: read %s: %w", k, err)
		}
		e.Values[k] = v
	}
	body, err := encMode.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("export keys: %w", err)
	}
	if passphrase == "" {
		return pem.EncodeToMemory(&pem.Block{Type: pemPlain, Bytes: body}), nil
	}
	sealed, err := seal(body, passphrase)
	if err != nil {
		return nil, fmt.Errorf("export keys: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemSealed, Bytes: sealed}), nil
}

// seal returns salt, nonce and ciphertext.
func seal(body []byte, passphrase string) ([]byte, error) {
	out := make([]byte, saltSize+chacha20poly1305.NonceSizeX, saltSize+chacha20poly1305.NonceSizeX+len(body)+64)
	if _, err := rand.Read(out); err != nil {
		return nil, err
	}
	key, err := scrypt.Key([]byte(passphrase), out[:saltSize], scryptN, scryptR, scryptP, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, out[saltSize:], body, []byte(pemSealed)), nil
}

func unseal(sealed []byte, passphrase string) ([]byte, error) {
	if len(sealed) < saltSize+chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("%w: cut off", ErrExport)
	}
	key, err := scrypt.Key([]byte(passphrase), sealed[:saltSize], scryptN, scryptR, scryptP, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	nonce := sealed[saltSize : saltSize+chacha20poly1305.NonceSizeX]
	body, err := aead.Open(nil, nonce, sealed[saltSize+len(nonce):], []byte(pemSealed))
	if err != nil {
		return nil, ErrPassphrase
	}
	return body, nil
}

// ImportKeys puts an export back: the node's key into dir, the rest into state.
// The node must not run. A key of another node in dir is an error unless replace
// is set.
func ImportKeys(dir string, state State, text []byte, passphrase string, replace bool) error {
	e, err := decodeExport(text, passphrase)
	if err != nil {
		return fmt.Errorf("import keys: %w", err)
	}
	key, err := crypto.UnmarshalPrivateKey(e.Key)
	if err != nil {
		return fmt.Errorf("import keys: %w: %w", ErrExport, err)
	}
	path := filepath.Join(dir, keyFile)
	if _, err := os.Stat(path); err == nil && !replace {
		have, err := LoadOrCreateKey(dir)
		if err != nil || !have.Equals(key) {
			return fmt.Errorf("import keys: %w: %s", ErrOtherNode, path)
		}
	}
	// The key goes last: what is in state is worthless without it.
	for _, k := range []string{stateRoster, stateMoves, statePeers, stateSelf} {
		if v, ok := e.Values[k]; ok {
			if err := state.Put(k, v); err != nil {
				return fmt.Errorf("import keys: keep %s: %w", k, err)
			}
		}
	}
	return writeKey(dir, path, key)
}

func decodeExport(text []byte, passphrase string) (*exported, error) {
	if len(text) > maxExport {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrExport, len(text), maxExport)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemPlain && block.Type != pemSealed {
		return nil, fmt.Errorf("%w: no PEM block %q or %q in it", ErrExport, pemPlain, pemSealed)
	}
	body := block.Bytes
	if block.Type == pemSealed {
		var err error
		if body, err = unseal(body, passphrase); err != nil {
			return nil, err
		}
	}
	var e exported
	if err := decodeMessage(body, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExport, err)
	}
	return &e, nil
}
