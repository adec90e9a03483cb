package mesh

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// State keeps a few small values over restarts.
type State interface {
	// Get returns what was put last. An absent key is an error that matches
	// fs.ErrNotExist.
	Get(key string) ([]byte, error)
	// Put keeps value durably: when it returns nil, a crash does not lose it.
	Put(key string, value []byte) error
}

// Config says what a node is made of. Key and Office are required.
type Config struct {
	Key    crypto.PrivKey // Ed25519; its peer ID is the node's identity
	Office string         // where the node stands, for people; see member.CheckOffice
	State  State          // nil keeps everything in memory
	// Datastore keeps DHT records; nil keeps them in memory.
	Datastore ds.Batching
	Log       *slog.Logger // nil discards

	Listen   []string // multiaddrs; nil is DefaultListen
	Announce []string // multiaddrs told to others beside those found, for example a forwarded port
	Peers    []string // multiaddrs with /p2p/ of members to dial, beside those known
	// BehindNAT says that nobody can dial this node, so it keeps a place at a
	// relay from the start on. Without it AutoNAT finds out.
	BehindNAT bool
	PortMap   bool // ask the router for a port by UPnP or NAT-PMP
	NoLAN     bool // do not look for members by mDNS

	CredentialTTL time.Duration         // of grants that this node makes; 0 is one year
	Metrics       prometheus.Registerer // nil registers nothing
}

// DefaultListen is where a node listens unless told otherwise.
var DefaultListen = []string{
	"/ip4/0.0.0.0/tcp/4911", "/ip4/0.0.0.0/udp/4911/quic-v1",
	"/ip6/::/tcp/4911", "/ip6/::/udp/4911/quic-v1",
}

const defaultCredentialTTL = 365 * 24 * time.Hour

func (c *Config) fill() error {
	if c.Key == nil || c.Key.Type() != crypto.Ed25519 {
		return errors.New("mesh: Config.Key must be an Ed25519 key")
	}
	if err := member.CheckOffice(c.Office, false); err != nil {
		return fmt.Errorf("mesh: %w", err)
	}
	if c.State == nil {
		c.State = &memoryState{}
	}
	if c.Datastore == nil {
		c.Datastore = dssync.MutexWrap(ds.NewMapDatastore())
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Listen == nil {
		c.Listen = DefaultListen
	}
	if c.CredentialTTL == 0 {
		c.CredentialTTL = defaultCredentialTTL
	}
	if c.CredentialTTL < time.Minute || c.CredentialTTL > member.MaxLifetime {
		return fmt.Errorf("mesh: credential lifetime %v: want a minute to %v", c.CredentialTTL, member.MaxLifetime)
	}
	return nil
}

// memoryState is the State of a node that needs none.
type memoryState struct {
	mu     sync.Mutex // guards values
	values map[string][]byte
}

func (s *memoryState) Get(key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return v, nil
}

func (s *memoryState) Put(key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[string][]byte{}
	}
	s.values[key] = value
	return nil
}

// keyFile is the node's private key, in libp2p's protobuf encoding.
const keyFile = "identity.key"

// maxKeyFile bounds what is read as a key.
const maxKeyFile = 4 << 10

// LoadKey is LoadOrCreateKey for a directory whose state may be a node's already, as
// after a restore: it makes no key there, which would stand in the way of the right one.
func LoadKey(dir string, state State) (crypto.PrivKey, error) {
	path := filepath.Join(dir, keyFile)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return LoadOrCreateKey(dir)
	}
	switch _, err := state.Get(stateSelf); {
	case errors.Is(err, fs.ErrNotExist):
		return createKey(dir, path)
	case err != nil:
		return nil, fmt.Errorf("read state %s: %w", stateSelf, err)
	}
	return nil, fmt.Errorf("%s is missing, and the data is a node's: restore the key that belongs to it, with keys import", path)
}

// LoadOrCreateKey reads the node's identity from dir, or makes one there. The
// file is readable to its owner only; who has it, is the node.
func LoadOrCreateKey(dir string) (crypto.PrivKey, error) {
	path := filepath.Join(dir, keyFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(dir, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	if len(raw) > maxKeyFile {
		return nil, fmt.Errorf("node key %s: %d bytes, more than %d", path, len(raw), maxKeyFile)
	}
	key, err := crypto.UnmarshalPrivateKey(raw)
	if err != nil || key.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("node key %s is damaged: restore it with keys import; backup, and restore --new-office elsewhere, keep the modules without it", path)
	}
	return key, nil
}

func createKey(dir, path string) (crypto.PrivKey, error) {
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	return key, writeKey(dir, path, key)
}

// writeKey replaces the key as a whole, so that a crash leaves the old or the new.
func writeKey(dir, path string, key crypto.PrivKey) error {
	raw, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the node's key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep the node's key: %w", err)
	}
	f, err := os.CreateTemp(dir, keyFile+".*") // 0600
	if err != nil {
		return fmt.Errorf("keep the node's key: %w", err)
	}
	defer os.Remove(f.Name()) // fails once renamed
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep the node's key: %w", err)
	}
	return nil
}
