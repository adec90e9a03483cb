package verify

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestProofFile(t *testing.T) {
	log, d := testLogAndDatabase(t)
	keys := []note.Verifier{newTestLog(t, "elsewhere.test", "").verifier(t), log.verifier(t)}
	key := testKey(t)
	for name, c := range map[string]struct {
		f      ProofFile
		proven bool
	}{
		"proof in the record": {ProofFile{Signed: mustSeal(t, provenRecord(t, d, mod(1)), key)}, true},
		"proof from later":    {ProofFile{Signed: mustSeal(t, zipRecord(mod(2)), key), Database: testDB, Proof: mustProve(t, d, mod(2))}, true},
		"a member's word":     {ProofFile{Signed: mustSeal(t, infoRecord(mod(1)), key), Credential: []byte("chain")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := EncodeProofFile(&c.f)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if len(line) > 200 {
					t.Errorf("line of %d bytes in a file for people", len(line))
				}
			}
			got, err := CheckProofFile(append([]byte("Dear auditor,\n"), text...), keys)
			if err != nil {
				t.Fatal(err)
			}
			if (got.Proof != nil) != c.proven || !bytes.Equal(got.Signed.Envelope, c.f.Signed.Envelope) || !bytes.Equal(got.Credential, c.f.Credential) {
				t.Errorf("got %+v, want %+v", got, c.f)
			}
		})
	}
}

func TestProofFilesThatAreRefused(t *testing.T) {
	log, d := testLogAndDatabase(t)
	key := testKey(t)
	proven := mustSeal(t, provenRecord(t, d, mod(1)), key)
	good := must(EncodeProofFile(&ProofFile{Signed: proven}))
	forged := *proven.Record.Vouch.Proof
	forged.ID++
	fork := log.fork()
	fork.grow(t, 10)
	lie, err := fork.open(t, newMemCache(), fork).Prove(context.Background(), mod(1))
	if err != nil {
		t.Fatal(err)
	}
	reencode := func(edit func(*pem.Block)) []byte {
		block, _ := pem.Decode(good)
		edit(block)
		return pem.EncodeToMemory(block)
	}
	encode := func(f ProofFile) []byte { return must(EncodeProofFile(&f)) }
	for name, c := range map[string]struct {
		data []byte
		keys []note.Verifier
		want error
	}{
		"forged proof":              {data: encode(ProofFile{Signed: proven, Database: testDB, Proof: &forged}), want: ErrProof},
		"proof of another hash":     {data: encode(ProofFile{Signed: proven, Database: testDB, Proof: lie}), want: ErrMismatch},
		"proof of another module":   {data: encode(ProofFile{Signed: proven, Database: testDB, Proof: mustProve(t, d, mod(2))}), want: ErrProof},
		"key not given":             {data: good, keys: []note.Verifier{}, want: ErrUnvouched},
		"another key of that name":  {data: good, keys: []note.Verifier{newTestLog(t, testDB, "").verifier(t)}, want: ErrProof},
		"header of another module":  {data: reencode(func(b *pem.Block) { b.Headers["Module"] = "evil.test/x" }), want: errAny},
		"header of another digest":  {data: bytes.Replace(good, []byte("h1:"), []byte("h1:x"), 1), want: errAny},
		"header too many":           {data: reencode(func(b *pem.Block) { b.Headers["Note"] = "all is well" }), want: errAny},
		"PEM block of another type": {data: reencode(func(b *pem.Block) { b.Type = "CERTIFICATE" }), want: errAny},
		"body cut off":              {data: reencode(func(b *pem.Block) { b.Bytes = b.Bytes[:len(b.Bytes)-1] }), want: errAny},
		"two blocks":                {data: append(bytes.Clone(good), good...), want: errAny},
		"nothing":                   {data: nil, want: errAny},
		"huge":                      {data: make([]byte, MaxProofFile+1), want: errAny},
	} {
		t.Run(name, func(t *testing.T) {
			if c.keys == nil {
				c.keys = []note.Verifier{log.verifier(t)}
			}
			f, err := CheckProofFile(c.data, c.keys)
			if err == nil || c.want != errAny && !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v, want %v", f, err, c.want)
			}
		})
	}
}
