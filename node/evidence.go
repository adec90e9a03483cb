package node

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/mesh/member"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// maxProofs is how many files one proof can be about: those of a module version.
const maxProofs = 3

// MaxProof bounds what CheckProof reads, in bytes.
const MaxProof = maxProofs * verify.MaxProofFile

// Proof implements Control.
func (k *keeper) Proof(_ context.Context, q ProofQuery) (*Proven, error) {
	m, err := k.place()
	if err != nil {
		return nil, err
	}
	kinds := []verify.Kind{verify.Info, verify.Mod, verify.Zip}
	if q.Kind != "" {
		kinds = []verify.Kind{verify.Kind(q.Kind)}
	}
	out := new(Proven)
	for _, kind := range kinds {
		name := verify.Name{Module: q.Module, Kind: kind}
		if err := name.Check(); err != nil {
			return nil, err
		}
		signed, err := k.store.Record(name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := out.add(m, signed); err != nil {
			return nil, err
		}
	}
	if len(out.Files) == 0 {
		return nil, fmt.Errorf("%s is not held here, so there is nothing to prove; fetch it first", q.Module)
	}
	return out, nil
}

// add writes down all that speaks for a record.
func (p *Proven) add(m *mesh.Mesh, s *verify.Signed) error {
	s, err := restated(m, s, s.Record.Vouch.Proof == nil)
	if err != nil {
		return err
	}
	v := s.Record.Vouch
	f := &verify.ProofFile{Signed: s, Database: v.Database, Proof: v.Proof}
	if info, ok := m.View().Member(s.Signer); ok {
		f.Credential = info.Credential.Bytes()
	}
	c, err := checked(f)
	if err != nil {
		return err
	}
	text, err := verify.EncodeProofFile(f)
	p.Files, p.Text = append(p.Files, c), append(p.Text, text...)
	return err
}

// restated is a record that others can believe. One that was made for another mesh
// is made anew by this node, and so is one for which nobody but its signer vouches,
// if that one is no member any more.
func restated(m *mesh.Mesh, s *verify.Signed, alone bool) (*verify.Signed, error) {
	rec := s.Record
	switch {
	case rec.Mesh != m.MeshID():
		rec.Mesh, rec.Office = m.MeshID(), m.Office()
	case alone && !m.IsMember(s.Signer):
		rec.Source = "mesh"
	default:
		return s, nil
	}
	return verify.Seal(&rec, m.Key())
}

// Checked is what a proof shows about one file.
type Checked struct {
	File     string    `json:"file"`
	Digest   string    `json:"digest"`
	Database string    `json:"database,omitempty"`  // that vouches; empty: only the signer does
	Tree     int64     `json:"tree_size,omitempty"` // records of the database when it did
	Record   int64     `json:"record,omitempty"`    // the number of the one about the module
	Signer   string    `json:"signer"`
	Office   string    `json:"office"`
	Mesh     string    `json:"mesh"`               // that the record is for
	MeshKey  string    `json:"mesh_key,omitempty"` // that the signer's credential comes from; empty: none is shown
	Role     string    `json:"role,omitempty"`
	Source   string    `json:"source"`
	Fetched  time.Time `json:"fetched"`
}

// CheckProof checks what Proof wrote, with the keys of databases and of a mesh alone:
// without network and store. Every .mod and .zip must be proved by a database, or
// signed by a member of the mesh whose key meshKey is; for an .info, a member's
// signature is all that there is. With an empty meshKey, no member is enough. That a
// member was revoked since cannot be seen.
func CheckProof(data []byte, keys []note.Verifier, meshKey string) ([]Checked, error) {
	return eachProof(data, func(block []byte) (Checked, error) {
		f, err := verify.CheckProofFile(block, keys)
		if err != nil {
			return Checked{}, err
		}
		c, err := checked(f)
		if err != nil {
			return c, err
		}
		return c, c.vouched(f.Signed.Record.Name.Kind, meshKey)
	})
}

// eachProof calls check with each block of a proof.
func eachProof(data []byte, check func(block []byte) (Checked, error)) ([]Checked, error) {
	if len(data) > MaxProof {
		return nil, fmt.Errorf("proof of %d bytes: at most %d allowed", len(data), MaxProof)
	}
	var list []Checked
	for len(list) < maxProofs {
		block, rest := pem.Decode(data)
		if block == nil && len(list) > 0 {
			break
		}
		c, err := check(data[:len(data)-len(rest)])
		if err != nil {
			return nil, err
		}
		if len(list) > 0 && moduleOf(c.File) != moduleOf(list[0].File) {
			return nil, fmt.Errorf("proof of %s and of %s in one file", list[0].File, c.File)
		}
		list, data = append(list, c), rest
	}
	if len(bytes.TrimSpace(data)) > 0 {
		return nil, errors.New("proof: something follows its last block")
	}
	return list, nil
}

// moduleOf is the module version of a file's name.
func moduleOf(file string) string { return file[:strings.LastIndexByte(file, '.')] }

// checked says what a proof file shows, whose every signature holds.
func checked(f *verify.ProofFile) (Checked, error) {
	r := &f.Signed.Record
	c := Checked{
		File: r.Name.String(), Digest: digestText(r.Name, r.Digest), Database: f.Database,
		Signer: f.Signed.Signer.String(), Office: r.Office, Mesh: r.Mesh, Source: r.Source, Fetched: r.Fetched,
	}
	if f.Proof != nil {
		size, _, err := parseHead(f.Proof.TreeHead)
		if err != nil {
			return c, fmt.Errorf("proof of %s: %w", c.File, err)
		}
		c.Tree, c.Record = size, f.Proof.ID
	}
	if err := c.checkCredential(f); err != nil {
		return c, fmt.Errorf("proof of %s: %w", c.File, err)
	}
	return c, nil
}

// vouched reports whether a database or the mesh with this key vouches for the file.
func (c *Checked) vouched(kind verify.Kind, meshKey string) error {
	switch {
	case c.Database != "":
		return nil
	case meshKey != "" && c.MeshKey != meshKey:
		return fmt.Errorf("%s: %w: its signer shows no credential from mesh %s", c.File, verify.ErrUnvouched, meshKey)
	case meshKey == "" && kind != verify.Info:
		return fmt.Errorf("%s: %w but %s, of mesh %s; if that is your mesh, say so with --mesh", c.File, verify.ErrUnvouched, c.Signer, c.MeshKey)
	}
	return nil
}

// checkCredential checks that the signer belongs to the mesh that the record is for.
func (c *Checked) checkCredential(f *verify.ProofFile) error {
	if len(f.Credential) == 0 {
		return nil
	}
	cred, err := member.ParseCredential(f.Credential)
	if err != nil {
		return err
	}
	if cred.Peer() != f.Signed.Signer || cred.Origin().String() != f.Signed.Record.Mesh || cred.Grant().Kind != member.Node {
		return fmt.Errorf("the credential is not one of %s for mesh %s", f.Signed.Signer, f.Signed.Record.Mesh)
	}
	c.MeshKey, c.Role = cred.Mesh().String(), cred.Grant().Role.String()
	return nil
}
