package verify

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxForks is how many forks are kept as evidence; the first ones stay.
const maxForks = 16

// Fork is evidence that a checksum database signed two histories: two tree heads
// that cannot both be true. It convinces whoever has the database's key.
type Fork struct {
	Older []byte `cbor:"1,keyasint"` // the signed head of the smaller tree
	Newer []byte `cbor:"2,keyasint"` // the signed head of the greater tree
	Hash  []byte `cbor:"3,keyasint"` // the root that the smaller tree has inside the greater
	Path  []byte `cbor:"4,keyasint"` // hashes that show so, 32 bytes each; none for trees of one size
}

// Check reports whether the evidence holds against the database whose key v is.
func (f *Fork) Check(v note.Verifier) error {
	older, err := openHead(f.Older, v)
	if err != nil {
		return err
	}
	newer, err := openHead(f.Newer, v)
	if err != nil {
		return err
	}
	if len(f.Hash) != tlog.HashSize || len(f.Path)%tlog.HashSize != 0 || len(f.Path) > 2*maxProofLen*tlog.HashSize {
		return fmt.Errorf("evidence of a fork: hash of %d bytes, path of %d", len(f.Hash), len(f.Path))
	}
	h := tlog.Hash(f.Hash)
	path := make(tlog.TreeProof, len(f.Path)/tlog.HashSize)
	for i := range path {
		copy(path[i][:], f.Path[i*tlog.HashSize:])
	}
	if err := tlog.CheckTree(path, newer.tree.N, newer.tree.Hash, older.tree.N, h); err != nil {
		return fmt.Errorf("evidence of a fork: %w", err)
	}
	if h == older.tree.Hash {
		return fmt.Errorf("no fork: the tree of %d is part of the tree of %d", older.tree.N, newer.tree.N)
	}
	return nil
}

// ForkError says that a database forked. errors.Is finds ErrSecurity in it.
type ForkError struct {
	Database string
	Fork     Fork
}

// Error is one sentence. Report has the evidence.
func (e *ForkError) Error() string {
	return fmt.Sprintf("checksum database %s signed two different histories; see the alarm for the evidence", e.Database)
}

// Unwrap makes errors.Is(err, ErrSecurity) true.
func (e *ForkError) Unwrap() error { return ErrSecurity }

// Report writes the evidence for people, to be passed on to whoever runs the
// database.
func (f *Fork) Report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "old tree head:\n%s\nnew tree head:\n%s\n", indent(f.Older), indent(f.Newer))
	fmt.Fprintf(&b, "root of the old tree inside the new one:\n\t%s\nproof:\n", base64.StdEncoding.EncodeToString(f.Hash))
	for h := range slices.Chunk(f.Path, tlog.HashSize) {
		fmt.Fprintf(&b, "\t%s\n", base64.StdEncoding.EncodeToString(h))
	}
	return b.String()
}

func indent(text []byte) string {
	return "\t" + strings.ReplaceAll(strings.TrimSuffix(string(text), "\n"), "\n", "\n\t")
}

// newFork collects the evidence that older, whose root inside newer is h, is not
// part of newer. r has newer's tiles.
func newFork(older, newer treeHead, h tlog.Hash, r tlog.HashReader) (*Fork, error) {
	f := &Fork{Older: older.note, Newer: newer.note, Hash: h[:]}
	if older.tree.N == newer.tree.N {
		return f, nil
	}
	path, err := tlog.ProveTree(newer.tree.N, older.tree.N, r)
	if err != nil {
		return nil, err
	}
	for _, p := range path {
		f.Path = append(f.Path, p[:]...)
	}
	return f, nil
}

// alarm keeps a fork and tells the operator.
func (d *Database) alarm(f *Fork) {
	d.mu.Lock()
	known := slices.ContainsFunc(d.forks, func(k Fork) bool {
		return string(k.Older) == string(f.Older) && string(k.Newer) == string(f.Newer)
	})
	if known || len(d.forks) >= maxForks {
		d.mu.Unlock()
		return
	}
	d.forks = append(d.forks, *f)
	d.save(d.prefix+"forks", must(encMode.Marshal(d.forks)))
	d.mu.Unlock()
	d.log.Error("checksum database signed two different histories", "database", d.name, "evidence", f.Report())
	if d.onFork != nil {
		d.onFork(*f)
	}
}

// Forks returns the evidence of every fork that was ever seen, at most 16, also
// across restarts. Anything here is an alarm.
func (d *Database) Forks() []Fork {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.forks)
}

func (d *Database) loadForks() {
	data := d.cached(d.prefix + "forks")
	if data == nil {
		return
	}
	var forks []Fork
	if err := decodeExact(decMode, data, &forks); err != nil {
		d.log.Error("kept evidence of a fork cannot be read", "database", d.name, "error", err)
		return
	}
	for _, f := range forks {
		if err := f.Check(d.verifier); err == nil {
			d.forks = append(d.forks, f)
		}
	}
}
