package verify

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/mod/sumdb/note"
)

// A proof file is a PEM block of this type. Its headers say what it is about, for
// people, and its body is CBOR.
const proofFileType = "MESHPROXY PROOF"

// Limits of a proof file and of the credential in it, in bytes.
const (
	MaxProofFile  = 2 * (MaxRecord + MaxProof + MaxCredential)
	MaxCredential = 64 << 10
)

// ProofFile is all that shows who vouches for one file of a module version. With
// the keys of the databases it is checked with no network and no store.
type ProofFile struct {
	Signed *Signed
	// Database and Proof are of a checksum database: those of the record, or later
	// ones if the record has none.
	Database string
	Proof    *Proof
	// Credential shows that the signer is a member of the record's mesh. This package
	// carries it and does not judge it.
	Credential []byte
}

type wireProofFile struct {
	Envelope   []byte `cbor:"1,keyasint"`
	Database   string `cbor:"2,keyasint,omitempty"`
	Proof      *Proof `cbor:"3,keyasint,omitempty"`
	Credential []byte `cbor:"4,keyasint,omitempty"`
}

// EncodeProofFile writes f as text. A proof that the record carries is in the file
// once, in the record.
func EncodeProofFile(f *ProofFile) ([]byte, error) {
	w := wireProofFile{Envelope: f.Signed.Envelope, Database: f.Database, Proof: f.Proof, Credential: f.Credential}
	if v := f.Signed.Record.Vouch; v.Proof != nil && v.Database == w.Database && v.Proof == w.Proof {
		w.Database, w.Proof = "", nil
	}
	if (w.Proof == nil) != (w.Database == "") || len(w.Credential) > MaxCredential {
		return nil, fmt.Errorf("proof file of %s: a proof needs its database's name, and a credential may have %d bytes",
			f.Signed.Record.Name, MaxCredential)
	}
	body, err := encMode.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("proof file of %s: %w", f.Signed.Record.Name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: proofFileType, Headers: proofHeaders(&f.Signed.Record), Bytes: body}), nil
}

func proofHeaders(r *Record) map[string]string {
	return map[string]string{
		"Module": r.Name.Module.Path, "Version": r.Name.Module.Version, "File": string(r.Name.Kind),
		"Digest": r.Name.digestText(r.Digest),
	}
}

// CheckProofFile reads a proof file and checks everything in it: the record, its
// signature, and the proof with the key of its database, which must be among keys.
// Without a proof it returns a file whose Proof is nil: then the signer alone
// vouches, and whether that is enough is for the caller to say.
func CheckProofFile(data []byte, keys []note.Verifier) (*ProofFile, error) {
	if len(data) > MaxProofFile {
		return nil, fmt.Errorf("proof file of %d bytes: at most %d allowed", len(data), MaxProofFile)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != proofFileType || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("not a proof file: want one PEM block %q and nothing after it", proofFileType)
	}
	var w wireProofFile
	if err := decodeExact(decMode, block.Bytes, &w); err != nil {
		return nil, fmt.Errorf("proof file: %w", err)
	}
	s, err := OpenSigned(w.Envelope)
	if err != nil {
		return nil, fmt.Errorf("proof file: %w", err)
	}
	if !maps.Equal(block.Headers, proofHeaders(&s.Record)) {
		return nil, fmt.Errorf("proof file: its headers do not say what it is about, which is %s", s.Record.Name)
	}
	f := &ProofFile{Signed: s, Database: w.Database, Proof: w.Proof, Credential: w.Credential}
	if v := s.Record.Vouch; f.Proof == nil && f.Database == "" && v.Proof != nil {
		f.Database, f.Proof = v.Database, v.Proof
	}
	if len(f.Credential) > MaxCredential || (f.Proof == nil) != (f.Database == "") {
		return nil, errors.New("proof file: its parts do not fit together")
	}
	if f.Proof != nil {
		if err := f.checkProof(keys); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *ProofFile) checkProof(keys []note.Verifier) error {
	r := &f.Signed.Record
	for _, v := range keys {
		if v.Name() != f.Database {
			continue
		}
		if err := f.Proof.Check(v); err != nil {
			return fmt.Errorf("proof file of %s: %w", r.Name, err)
		}
		d, err := f.Proof.Digest(r.Name)
		if err != nil {
			return fmt.Errorf("proof file of %s: %w: %w", r.Name, ErrProof, err)
		}
		if d != r.Digest {
			return &MismatchError{Name: r.Name, Want: d, WantBy: "checksum database " + f.Database,
				Got: r.Digest, GotBy: "the record signed by " + f.Signed.Signer.String()}
		}
		return nil
	}
	return fmt.Errorf("proof file of %s: %w: its proof is from %s, whose key was not given", r.Name, ErrUnvouched, f.Database)
}
