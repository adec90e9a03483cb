package mesh

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Keys of what a node keeps in State.
const (
	stateSelf   = "mesh/self"   // selfState
	stateRoster = "mesh/roster" // rosterState
	statePeers  = "mesh/peers"  // []member.Hint
)

// maxState bounds what is decoded from State.
const maxState = 64 << 20

type selfState struct {
	Credential []byte `cbor:"1,keyasint"`
	MeshKey    []byte `cbor:"2,keyasint,omitempty"` // protobuf, if this node has it
}

type rosterState struct {
	Statements []member.Statement `cbor:"1,keyasint"`
}

// place is a node's place in a mesh: what enter needs.
type place struct {
	self    *member.Credential
	roster  *member.Roster
	meshKey crypto.PrivKey
}

// getState decodes what State has under key; false if it has nothing.
func (m *Mesh) getState(key string, v any) (bool, error) {
	b, err := m.cfg.State.Get(key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read state %s: %w", key, err)
	}
	if len(b) > maxState {
		return false, fmt.Errorf("state %s: %d bytes, more than %d", key, len(b), maxState)
	}
	if err := decodeMessage(b, v); err != nil {
		return false, fmt.Errorf("state %s is damaged: %w", key, err)
	}
	return true, nil
}

func (m *Mesh) putState(key string, v any) error {
	b, err := encMode.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode state %s: %w", key, err)
	}
	if err := m.cfg.State.Put(key, b); err != nil {
		return fmt.Errorf("keep state %s: %w", key, err)
	}
	return nil
}

// load returns the node's place from State, nil if it has none yet.
func (m *Mesh) load() (*place, error) {
	var self selfState
	if ok, err := m.getState(stateSelf, &self); err != nil || !ok {
		return nil, err
	}
	c, err := member.ParseCredential(self.Credential)
	if err != nil {
		return nil, fmt.Errorf("state %s is damaged: %w", stateSelf, err)
	}
	if c.Subject() != m.signer.Public {
		return nil, fmt.Errorf("state %s is of node %s, but the node key is %s: restore the key that belongs to it",
			stateSelf, c.Peer(), m.signer.Public)
	}
	p := &place{self: c, roster: member.NewRoster(c.Mesh(), c.Founder())}
	if len(self.MeshKey) > 0 {
		if p.meshKey, err = crypto.UnmarshalPrivateKey(self.MeshKey); err != nil {
			return nil, fmt.Errorf("state %s: mesh key: %w", stateSelf, err)
		}
	}
	var saved rosterState
	if _, err := m.getState(stateRoster, &saved); err != nil {
		return nil, err
	}
	if _, err := p.roster.Merge(saved.Statements, time.Now()); err != nil {
		m.log.Warn("some saved statements do not hold", "err", err)
	}
	return p, nil
}

// save keeps the node's place. The roster goes first: a crash between the two
// leaves the old place with a roster of another mesh, of which load takes nothing.
func (m *Mesh) save(p *place) error {
	all := p.roster.Statements(func(member.ID) bool { return true })
	if err := m.putState(stateRoster, rosterState{all}); err != nil {
		return err
	}
	self := selfState{Credential: p.self.Bytes()}
	if p.meshKey != nil {
		raw, err := crypto.MarshalPrivateKey(p.meshKey)
		if err != nil {
			return fmt.Errorf("encode the mesh key: %w", err)
		}
		self.MeshKey = raw
	}
	return m.putState(stateSelf, self)
}

// saveRoster keeps the roster as it is. The caller holds mu.
func (m *Mesh) saveRoster() error {
	err := m.save(&place{m.self, m.roster, m.meshKey})
	m.unsaved = m.unsaved && err != nil
	return err
}

// keepRoster keeps what others have told since the roster was kept last.
func (m *Mesh) keepRoster() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.unsaved {
		return nil
	}
	return m.saveRoster()
}

// found makes a mesh of this node alone.
func (m *Mesh) found() (*place, error) {
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		return nil, fmt.Errorf("make a mesh key: %w", err)
	}
	signer, err := member.NewSigner(key)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c, err := member.Found(signer, m.grantNode(m.signer.Public, member.Admin, m.cfg.Office, now))
	if err != nil {
		return nil, fmt.Errorf("found a mesh: %w", err)
	}
	p := &place{self: c, roster: member.NewRoster(c.Mesh(), c.Founder()), meshKey: key}
	if _, err := p.roster.AddCredential(c, now); err != nil {
		return nil, fmt.Errorf("found a mesh: %w", err)
	}
	return p, m.save(p)
}

func (m *Mesh) grantNode(subject member.Key, role member.Role, office string, now time.Time) member.Grant {
	return member.Grant{
		Kind: member.Node, Subject: subject, Role: role, Office: office,
		Issued: now.Unix(), Expires: now.Add(m.cfg.CredentialTTL).Unix(),
	}
}
