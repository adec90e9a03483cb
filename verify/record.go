package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/mod/module"
)

// Limits of a record, in bytes. MaxRecord bounds a sealed one of any kind: a
// go.mod of the largest size, its proof, and the rest.
const (
	MaxRecord = MaxMod + MaxProof + 16<<10
	maxText   = 1 << 10 // mesh, office, source, database
)

// maxFetched is the last second of the year 9999, where RFC 3339 ends.
const maxFetched = 253402300799

// Authority says on whose word a node admitted a file that it fetched.
type Authority string

// The authorities, strongest first.
const (
	ByPin    Authority = "pin"    // a go.sum that the operator gave the node
	BySumDB  Authority = "sumdb"  // a checksum database
	ByMember Authority = "member" // the member that signs the record
)

// Vouch says who answered for the content of a file when it was first fetched.
// It is a statement of the signer. Only its Proof convinces anybody else.
type Vouch struct {
	By       Authority
	Database string // the database that Proof is from, else empty
	Proof    *Proof // inclusion in Database; always set with BySumDB, perhaps with ByPin
}

// Record is a statement about one file of a module version: this is its content,
// fetched then, from there, vouched for so. It is immutable once sealed.
type Record struct {
	Mesh    string // identity of the mesh for whose members it is made
	Name    Name
	Digest  Digest    // mod, zip: the h1; info: the SHA-256 of Data
	Data    []byte    // info, mod: the exact bytes; zip: empty
	Size    int64     // zip: the sum of its uncompressed file sizes; else len(Data)
	Fetched time.Time // in UTC, whole seconds
	Office  string    // who fetched it
	Source  string    // where from, in words: "proxy HOST", "direct", "import", "mesh"
	Vouch   Vouch
}

// wireRecord is what a record looks like in CBOR. Numbers are never reused.
type wireRecord struct {
	Mesh     string `cbor:"1,keyasint"`
	Path     string `cbor:"2,keyasint"`
	Version  string `cbor:"3,keyasint"`
	Kind     string `cbor:"4,keyasint"`
	Digest   []byte `cbor:"5,keyasint"`
	Data     []byte `cbor:"6,keyasint,omitempty"`
	Size     int64  `cbor:"7,keyasint"`
	Fetched  int64  `cbor:"8,keyasint"`
	Office   string `cbor:"9,keyasint,omitempty"`
	Source   string `cbor:"10,keyasint,omitempty"`
	By       string `cbor:"11,keyasint"`
	Database string `cbor:"12,keyasint,omitempty"`
	Proof    *Proof `cbor:"13,keyasint,omitempty"`
}

// Check reports whether the record may be sealed or accepted as far as it can be
// judged alone: every field is within its limit, Data has the Digest, and the
// proof, if any, speaks of this file and this digest. It checks no signature and
// no proof: see OpenSigned and Trust.CheckSigned.
func (r *Record) Check() error {
	if err := r.Name.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	for _, err := range []error{r.checkText(), r.checkContent(), r.checkVouch()} {
		if err != nil {
			return fmt.Errorf("%w of %s: %w", ErrRecord, r.Name, err)
		}
	}
	return nil
}

func (r *Record) checkText() error {
	if r.Mesh == "" {
		return fmt.Errorf("it names no mesh")
	}
	for _, f := range []struct{ name, text string }{
		{"mesh", r.Mesh}, {"office", r.Office}, {"source", r.Source}, {"database", r.Vouch.Database},
	} {
		if len(f.text) > maxText {
			return fmt.Errorf("%s of %d bytes: at most %d allowed", f.name, len(f.text), maxText)
		}
		// Operators read these in logs and on terminals.
		if strings.ContainsFunc(f.text, func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar }) {
			return fmt.Errorf("%s %.80q: only printable characters allowed", f.name, f.text)
		}
	}
	if s := r.Fetched.Unix(); s < 0 || s > maxFetched || !r.Fetched.Equal(time.Unix(s, 0)) {
		return fmt.Errorf("time of fetch %v: want whole seconds from 1970 to 9999", r.Fetched)
	}
	return nil
}

func (r *Record) checkContent() error {
	var limit int64
	var sum Digest
	switch r.Name.Kind {
	case Zip:
		if len(r.Data) != 0 {
			return fmt.Errorf("%d bytes of data: a zip's record holds none", len(r.Data))
		}
		if r.Size < 0 || r.Size > MaxZip {
			return fmt.Errorf("size %d: want 0 to %d", r.Size, MaxZip)
		}
		return nil
	case Mod:
		limit, sum = MaxMod, DigestMod(r.Data)
	case Info:
		limit, sum = MaxInfo, DigestOf(r.Data)
	}
	if r.Size != int64(len(r.Data)) || r.Size > limit {
		return fmt.Errorf("size %d with %d bytes of data: want them equal and at most %d", r.Size, len(r.Data), limit)
	}
	if sum != r.Digest {
		return fmt.Errorf("its data has digest %s, it says %s", r.Name.digestText(sum), r.Name.digestText(r.Digest))
	}
	if r.Name.Kind == Info {
		return CheckInfo(r.Name.Module, r.Data)
	}
	return nil
}

// CheckInfo reports whether data is a .info of m: at most MaxInfo bytes of JSON
// whose Version is m's. The go command refuses any other.
func CheckInfo(m module.Version, data []byte) error {
	if len(data) > MaxInfo {
		return fmt.Errorf(".info of %d bytes: at most %d allowed", len(data), MaxInfo)
	}
	var info struct{ Version string }
	if err := json.Unmarshal(data, &info); err != nil {
		return fmt.Errorf(".info: %w", err)
	}
	if info.Version != m.Version {
		return fmt.Errorf(".info says version %.80q: want %s", info.Version, m.Version)
	}
	return nil
}

func (r *Record) checkVouch() error {
	v := r.Vouch
	switch {
	case v.By != ByPin && v.By != BySumDB && v.By != ByMember:
		return fmt.Errorf("authority %.80q: want pin, sumdb or member", string(v.By))
	case v.By == BySumDB && v.Proof == nil:
		return fmt.Errorf("vouched for by a database, but without a proof")
	case (v.Proof == nil) != (v.Database == ""):
		return fmt.Errorf("a proof and the name of its database go together")
	case v.By == ByMember && v.Proof != nil, r.Name.Kind == Info && v.By != ByMember:
		return fmt.Errorf("authority %s does not fit: a member vouches without a proof, and nobody else for .info", v.By)
	case v.Proof == nil:
		return nil
	}
	if err := v.Proof.checkLimits(); err != nil {
		return err
	}
	d, err := v.Proof.Digest(r.Name)
	if err != nil {
		return err
	}
	if d != r.Digest {
		return fmt.Errorf("its proof is for %s, it says %s", d.H1(), r.Digest.H1())
	}
	return nil
}

func (r *Record) marshal() ([]byte, error) {
	return encMode.Marshal(wireRecord{
		Mesh: r.Mesh, Path: r.Name.Module.Path, Version: r.Name.Module.Version, Kind: string(r.Name.Kind),
		Digest: r.Digest[:], Data: r.Data, Size: r.Size, Fetched: r.Fetched.Unix(),
		Office: r.Office, Source: r.Source,
		By: string(r.Vouch.By), Database: r.Vouch.Database, Proof: r.Vouch.Proof,
	})
}

func unmarshalRecord(payload []byte) (*Record, error) {
	var w wireRecord
	if err := decodeExact(decMode, payload, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	r := &Record{
		Mesh: w.Mesh, Name: Name{Module: module.Version{Path: w.Path, Version: w.Version}, Kind: Kind(w.Kind)},
		Data: bytes.Clone(w.Data), Size: w.Size, Fetched: time.Unix(w.Fetched, 0).UTC(),
		Office: w.Office, Source: w.Source,
		Vouch: Vouch{By: Authority(w.By), Database: w.Database, Proof: w.Proof},
	}
	if len(w.Digest) != len(r.Digest) {
		return nil, fmt.Errorf("%w: digest of %d bytes, want %d", ErrRecord, len(w.Digest), len(r.Digest))
	}
	copy(r.Digest[:], w.Digest)
	return r, r.Check()
}
