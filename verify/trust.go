package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"
)

// toolchainPath is the module that the go command takes its own releases from. No
// pattern and no "off" exempts it from the checksum database.
const toolchainPath = "golang.org/toolchain"

// TrustOptions says whom a node believes.
type TrustOptions struct {
	Mesh      string      // identity of the mesh; records for any other are refused
	Pins      *Pins       // nil: none
	Databases []*Database // the first whose patterns fit answers for a module
	// Private are the patterns of GONOSUMDB (whose default is GOPRIVATE): modules
	// that databases without patterns of their own are not asked about.
	Private string
	// IsMember reports whether a peer is a member of the mesh now. It must not block.
	IsMember func(peer.ID) bool
	// PinWait is how long Vouch waits for a database's word on a pinned file: it is
	// for other offices to check, not for this one. Default: 3 s.
	PinWait time.Duration
}

// Trust decides whether content belongs to a name. For mod and zip the order is
// pin, checksum database, and, only for modules that no database covers, a member
// of the mesh; for .info, which nobody else signs, always a member. Two sources
// that disagree are refused with ErrMismatch, whatever their rank.
type Trust struct{ o TrustOptions }

// NewTrust returns the judge that o describes.
func NewTrust(o TrustOptions) *Trust {
	if o.Pins == nil {
		o.Pins = new(Pins)
	}
	if o.IsMember == nil {
		o.IsMember = func(peer.ID) bool { return false }
	}
	if o.PinWait <= 0 {
		o.PinWait = 3 * time.Second
	}
	return &Trust{o}
}

// Database returns the one called name, or nil.
func (t *Trust) Database(name string) *Database {
	for _, d := range t.o.Databases {
		if d.Name() == name {
			return d
		}
	}
	return nil
}

// database returns the one that answers for the module path, or nil if none does.
func (t *Trust) database(path string) *Database {
	private := path != toolchainPath && module.MatchPrefixPatterns(t.o.Private, path)
	for _, d := range t.o.Databases {
		if d.covers(path) && (d.spec.Only != "" || !private) {
			return d
		}
	}
	return nil
}

// Public reports whether a checksum database answers for the module path. If so,
// no member's word is enough for its mod and zip.
func (t *Trust) Public(path string) bool {
	return path == toolchainPath || t.database(path) != nil
}

// CheckPin returns a *MismatchError if n is pinned to another digest than got,
// which by found. It is cheap enough for every request.
func (t *Trust) CheckPin(n Name, got Digest, by string) error {
	p, ok := t.o.Pins.Lookup(n)
	if !ok || p.Digest == got {
		return nil
	}
	return &MismatchError{Name: n, Want: p.Digest, WantBy: "pin " + p.Origin, Got: got, GotBy: by}
}

// Expect returns the digest that n must have, and who says so, before anything is
// fetched. It is ErrUnvouched when nobody can say beforehand: for .info, and for
// modules that no database covers or knows. ErrUnavailable means that a database
// would know. A pin is answered at once, without a proof: seal records with what
// Vouch returns.
func (t *Trust) Expect(ctx context.Context, n Name) (Digest, Vouch, error) {
	if err := n.Check(); err != nil {
		return Digest{}, Vouch{}, err
	}
	if p, ok := t.o.Pins.Lookup(n); ok {
		return p.Digest, Vouch{By: ByPin}, nil
	}
	db := t.database(n.Module.Path)
	if n.Kind == Info || db == nil {
		return Digest{}, Vouch{}, fmt.Errorf("%s: %w before it is fetched", n, ErrUnvouched)
	}
	return ask(ctx, db, n)
}

// ask returns the database's word on n.
func ask(ctx context.Context, db *Database, n Name) (Digest, Vouch, error) {
	p, err := db.Prove(ctx, n.Module)
	if errors.Is(err, fs.ErrNotExist) {
		// Unvouched, not "not found": the module may well exist.
		return Digest{}, Vouch{}, fmt.Errorf("%s: %w: checksum database %s does not know it: %v", n, ErrUnvouched, db.Name(), err)
	}
	if err != nil {
		return Digest{}, Vouch{}, fmt.Errorf("%s: %w", n, err)
	}
	d, err := p.Digest(n)
	if err != nil {
		return Digest{}, Vouch{}, fmt.Errorf("%s: %w: %w", n, ErrUnvouched, err)
	}
	return d, Vouch{By: BySumDB, Database: db.Name(), Proof: p}, nil
}

// Vouch finds who answers for a file that this node fetched itself and whose
// digest is got. The error is ErrMismatch if a pin or a database names another
// digest, ErrUnvouched if nobody answers, ErrUnavailable if the database that
// would is out of reach.
func (t *Trust) Vouch(ctx context.Context, n Name, got Digest) (Vouch, error) {
	if err := n.Check(); err != nil {
		return Vouch{}, err
	}
	db := t.database(n.Module.Path)
	if n.Kind == Info {
		return Vouch{By: ByMember}, nil
	}
	const by = "the fetched content"
	if err := t.CheckPin(n, got, by); err != nil {
		return Vouch{}, err
	}
	if _, pinned := t.o.Pins.Lookup(n); pinned {
		return t.vouchPinned(ctx, db, n, got)
	}
	if db == nil {
		return t.vouchPrivate(n)
	}
	want, v, err := ask(ctx, db, n)
	if err != nil {
		return Vouch{}, err
	}
	if want != got {
		return Vouch{}, &MismatchError{Name: n, Want: want, WantBy: "checksum database " + db.Name(), Got: got, GotBy: by}
	}
	return v, nil
}

// vouchPrivate is for modules that no database covers: this node's own word, and
// so a member's.
func (t *Trust) vouchPrivate(n Name) (Vouch, error) {
	if n.Module.Path == toolchainPath {
		return Vouch{}, fmt.Errorf("%s: %w: toolchains are always checked by a checksum database, and none is configured for them", n, ErrUnvouched)
	}
	return Vouch{By: ByMember}, nil
}

// vouchPinned adds the database's proof to a pin, if it can be had soon: other
// offices do not have the pin.
func (t *Trust) vouchPinned(ctx context.Context, db *Database, n Name, got Digest) (Vouch, error) {
	v := Vouch{By: ByPin}
	if db == nil {
		return v, nil
	}
	soon, cancel := context.WithTimeout(ctx, t.o.PinWait)
	defer cancel()
	said, proof, err := ask(soon, db, n)
	if err != nil {
		return v, ctx.Err() // the pin is enough
	}
	if said != got {
		p, _ := t.o.Pins.Lookup(n)
		return Vouch{}, &MismatchError{Name: n, Want: got, WantBy: "pin " + p.Origin, Got: said, GotBy: "checksum database " + db.Name()}
	}
	v.Database, v.Proof = proof.Database, proof.Proof
	return v, nil
}

// CheckSigned decides whether a record from a peer, opened by OpenSigned, may be
// believed. It needs no network when a pin, an earlier lookup or the record's own
// proof settles it, or when only a member's word is needed. ErrRecord and ErrProof
// mean that the sender lied; ErrMismatch that two sources disagree; ErrUnvouched
// that nobody answers for it; ErrUnavailable that only a database out of reach
// could.
func (t *Trust) CheckSigned(ctx context.Context, s *Signed) error {
	r := &s.Record
	by := "the record signed by " + s.Signer.String()
	if r.Mesh != t.o.Mesh {
		return fmt.Errorf("%w of %s: made for mesh %.80q, this is %.80q", ErrRecord, r.Name, r.Mesh, t.o.Mesh)
	}
	if err := t.CheckPin(r.Name, r.Digest, by); err != nil {
		return err
	}
	_, pinned := t.o.Pins.Lookup(r.Name)
	db := t.database(r.Name.Module.Path)
	if db != nil && r.Name.Kind != Info {
		return t.checkPublic(ctx, db, s, pinned)
	}
	if pinned {
		return nil
	}
	if r.Name.Module.Path == toolchainPath && r.Name.Kind != Info {
		_, err := t.vouchPrivate(r.Name)
		return err
	}
	if !t.o.IsMember(s.Signer) {
		return fmt.Errorf("%s: %w: %s is not a member of the mesh now", r.Name, ErrUnvouched, by)
	}
	return nil
}

// checkPublic judges a record of a module that db covers.
func (t *Trust) checkPublic(ctx context.Context, db *Database, s *Signed, pinned bool) error {
	r := &s.Record
	known, err := db.Known(r.Name.Module)
	switch {
	case err == nil: // what db said first stays, whatever a proof shows
		return t.agrees(db, s, known)
	case r.Vouch.Proof != nil && r.Vouch.Database == db.Name():
		if err := r.Vouch.Proof.Check(db.Verifier()); err != nil {
			return fmt.Errorf("%s, signed by %s: %w", r.Name, s.Signer, err)
		}
		return t.agrees(db, s, r.Vouch.Proof)
	case pinned:
		return nil
	}
	p, err := db.Prove(ctx, r.Name.Module)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w: checksum database %s does not know it: %v", r.Name, ErrUnvouched, db.Name(), err)
	}
	if err != nil {
		return fmt.Errorf("%s: its record has no proof from %s: %w", r.Name, db.Name(), err)
	}
	return t.agrees(db, s, p)
}

func (t *Trust) agrees(db *Database, s *Signed, p *Proof) error {
	d, err := p.Digest(s.Record.Name)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", s.Record.Name, ErrUnvouched, err)
	}
	if d != s.Record.Digest {
		return &MismatchError{Name: s.Record.Name, Want: d, WantBy: "checksum database " + db.Name(),
			Got: s.Record.Digest, GotBy: "the record signed by " + s.Signer.String()}
	}
	return nil
}

// SumDB answers a client's or a peer's request below /sumdb/NAME/ (see
// Database.Serve). An unknown database is fs.ErrNotExist, upon which go commands
// go past this node; a private module is ErrPrivate, and its name goes nowhere.
func (t *Trust) SumDB(ctx context.Context, name, path string, o ServeOptions) ([]byte, error) {
	db := t.Database(name)
	if db == nil {
		return nil, fmt.Errorf("checksum database %.200q is not served here: %w", name, fs.ErrNotExist)
	}
	if lookup, ok := strings.CutPrefix(path, "lookup/"); ok {
		m, err := parseLookup(lookup)
		if err != nil {
			return nil, err
		}
		if t.database(m.Path) != db {
			return nil, fmt.Errorf("lookup of %s at %s: %w", m, name, ErrPrivate)
		}
	}
	return db.Serve(ctx, path, o)
}
