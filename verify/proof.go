package verify

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Limits of a proof's parts, in bytes, of the size of a tree, in records, and of a
// proof's length, in hashes. Greater trees are not believed, because the arithmetic
// of tlog ends somewhere above.
const (
	MaxProof    = maxTreeHead + maxSumText + maxProofLen*tlog.HashSize + 1<<10
	maxTreeHead = 8 << 10
	maxSumText  = 64 << 10
	maxProofLen = 48
	maxTreeSize = 1 << maxProofLen
)

// Proof shows that a checksum database holds a record: its signed tree head, the
// record, and the hashes that lead from one to the other. It is checked with the
// database's public key and nothing else, so it is as good in an outage as ever.
type Proof struct {
	TreeHead []byte `cbor:"1,keyasint"` // signed note
	ID       int64  `cbor:"2,keyasint"` // number of the record
	Text     []byte `cbor:"3,keyasint"` // the record: go.sum lines
	Path     []byte `cbor:"4,keyasint"` // hashes from the leaf up, 32 bytes each
}

// newProof makes a proof from its parts.
func newProof(head []byte, id int64, text []byte, path tlog.RecordProof) *Proof {
	p := &Proof{TreeHead: bytes.Clone(head), ID: id, Text: bytes.Clone(text)}
	for _, h := range path {
		p.Path = append(p.Path, h[:]...)
	}
	return p
}

// Check reports whether the database whose key v holds signed a tree that has
// the record. Errors are ErrProof.
func (p *Proof) Check(v note.Verifier) error {
	if err := p.checkLimits(); err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	h, err := openHead(p.TreeHead, v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	path := make(tlog.RecordProof, len(p.Path)/tlog.HashSize)
	for i := range path {
		copy(path[i][:], p.Path[i*tlog.HashSize:])
	}
	if err := tlog.CheckRecord(path, h.tree.N, h.tree.Hash, p.ID, tlog.RecordHash(p.Text)); err != nil {
		return fmt.Errorf("%w: record %d in a tree of %d: %w", ErrProof, p.ID, h.tree.N, err)
	}
	return nil
}

// Digest is what the record says of n, a mod or a zip. It means nothing before
// Check has passed.
func (p *Proof) Digest(n Name) (Digest, error) { return sumDigest(p.Text, n) }

func (p *Proof) checkLimits() error {
	switch {
	case len(p.TreeHead) == 0 || len(p.TreeHead) > maxTreeHead:
		return fmt.Errorf("tree head of %d bytes: want 1 to %d", len(p.TreeHead), maxTreeHead)
	case len(p.Text) == 0 || len(p.Text) > maxSumText:
		return fmt.Errorf("database record of %d bytes: want 1 to %d", len(p.Text), maxSumText)
	case len(p.Path)%tlog.HashSize != 0 || len(p.Path) > maxProofLen*tlog.HashSize:
		return fmt.Errorf("proof of %d bytes: want up to %d hashes of %d", len(p.Path), maxProofLen, tlog.HashSize)
	case p.ID < 0:
		return fmt.Errorf("number %d of a database record: want 0 or more", p.ID)
	}
	return nil
}

// sumDigest finds the one h1 that the lines of a database record give for n.
func sumDigest(text []byte, n Name) (Digest, error) {
	var found Digest
	version := n.Module.Version
	switch n.Kind {
	case Zip:
	case Mod:
		version += goModSuffix
	default:
		return found, fmt.Errorf("%s: checksum databases know mod and zip only", n)
	}
	prefix := n.Module.Path + " " + version + " "
	for line := range strings.Lines(string(text)) {
		sum, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), prefix)
		if !ok || !strings.HasPrefix(sum, h1Prefix) {
			continue // another file, or a kind of hash that is yet to be invented
		}
		d, err := ParseH1(sum)
		if err != nil {
			return found, fmt.Errorf("database record, line %.200q: %w", line, err)
		}
		if !found.IsZero() && d != found {
			return found, fmt.Errorf("database record gives %s both %s and %s", n, found.H1(), d.H1())
		}
		found = d
	}
	if found.IsZero() {
		return found, fmt.Errorf("database record has no line for %s", n)
	}
	return found, nil
}

// speaksOf reports whether the record has a hash for any file of m.
func (p *Proof) speaksOf(m module.Version) error {
	_, err := p.Digest(Name{Module: m, Kind: Zip})
	if err != nil {
		_, err = p.Digest(Name{Module: m, Kind: Mod})
	}
	return err
}

// treeHead is a signed tree head that was checked.
type treeHead struct {
	tree tlog.Tree
	note []byte // as signed; empty only for the empty tree that every log starts with
}

// emptyTree is the one that every log starts with.
var emptyTree = tlog.Tree{N: 0, Hash: must(tlog.TreeHash(0, nil))}

func openHead(msg []byte, v note.Verifier) (treeHead, error) {
	if len(msg) > maxTreeHead {
		return treeHead{}, fmt.Errorf("tree head of %d bytes: at most %d allowed", len(msg), maxTreeHead)
	}
	n, err := note.Open(msg, note.VerifierList(v))
	if err != nil {
		return treeHead{}, fmt.Errorf("tree head is not signed by %s: %w", v.Name(), err)
	}
	tree, err := tlog.ParseTree([]byte(n.Text))
	if err != nil {
		return treeHead{}, fmt.Errorf("tree head of %s: %w", v.Name(), err)
	}
	if tree.N > maxTreeSize || tree.N == 0 && tree.Hash != emptyTree.Hash {
		return treeHead{}, fmt.Errorf("tree head of %s: no tree of %d records has the hash %s", v.Name(), tree.N, tree.Hash)
	}
	return treeHead{tree: tree, note: bytes.Clone(msg)}, nil
}
