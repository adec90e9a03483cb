package verify

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	"golang.org/x/mod/module"
	"pgregory.net/rapid"
)

const testMesh = "12D3KooWExampleMesh"

func testKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyID(t testing.TB, key crypto.PrivKey) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func infoRecord(m module.Version) *Record {
	data := fmt.Appendf(nil, `{"Version":%q,"Time":"2024-02-29T12:00:00Z"}`, m.Version)
	return &Record{Mesh: testMesh, Name: Name{m, Info}, Digest: DigestOf(data), Data: data, Size: int64(len(data)),
		Fetched: time.Unix(1709208000, 0).UTC(), Office: "Zürich", Source: "direct", Vouch: Vouch{By: ByMember}}
}

func modRecord(m module.Version) *Record {
	data := []byte("module " + m.Path + "\n")
	r := infoRecord(m)
	r.Name.Kind, r.Digest, r.Data, r.Size = Mod, DigestMod(data), data, int64(len(data))
	return r
}

// zipRecord is a member's word on testSums' zip of m.
func zipRecord(m module.Version) *Record {
	r := infoRecord(m)
	r.Name.Kind, r.Data, r.Size = Zip, nil, 12345
	r.Digest, _ = testSums(m, "")
	return r
}

// provenRecord is zipRecord with d's proof.
func provenRecord(t testing.TB, d *Database, m module.Version) *Record {
	t.Helper()
	r := zipRecord(m)
	r.Vouch = Vouch{By: BySumDB, Database: d.Name(), Proof: mustProve(t, d, m)}
	return r
}

func mustSeal(t testing.TB, r *Record, key crypto.PrivKey) *Signed {
	t.Helper()
	s, err := Seal(r, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sealUnchecked signs what Seal refuses to.
func sealUnchecked(t testing.TB, r *Record, key crypto.PrivKey) []byte {
	t.Helper()
	env, err := record.Seal(&payload{rec: r}, key)
	if err != nil {
		t.Fatal(err)
	}
	return must(env.Marshal())
}

func testLogAndDatabase(t testing.TB) (*testLog, *Database) {
	t.Helper()
	log := newTestLog(t, testDB, "")
	log.grow(t, 300)
	return log, log.open(t, newMemCache(), log)
}

func TestSealAndOpen(t *testing.T) {
	_, d := testLogAndDatabase(t)
	key := testKey(t)
	pinned := zipRecord(mod(1))
	pinned.Vouch.By = ByPin
	both := provenRecord(t, d, mod(1))
	both.Vouch.By = ByPin
	for name, r := range map[string]*Record{
		"info": infoRecord(mod(1)), "mod": modRecord(mod(1)), "zip by a member": zipRecord(mod(1)),
		"zip by a database": provenRecord(t, d, mod(1)), "zip by a pin": pinned, "zip by a pin and a database": both,
	} {
		t.Run(name, func(t *testing.T) {
			s := mustSeal(t, r, key)
			if again := mustSeal(t, r, key); !bytes.Equal(s.Envelope, again.Envelope) {
				t.Error("two seals of one record differ")
			}
			got, err := OpenSigned(s.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			if got.Signer != keyID(t, key) {
				t.Errorf("signer %s, want %s", got.Signer, keyID(t, key))
			}
			if want := must(r.marshal()); !bytes.Equal(must(got.Record.marshal()), want) || !got.Record.Fetched.Equal(r.Fetched) {
				t.Errorf("got %+v, want %+v", got.Record, *r)
			}
		})
	}
}

func TestRecordsThatContradictThemselves(t *testing.T) {
	_, d := testLogAndDatabase(t)
	proven := func(edit func(*Record)) *Record { r := provenRecord(t, d, mod(1)); edit(r); return r }
	zip := func(edit func(*Record)) *Record { r := zipRecord(mod(1)); edit(r); return r }
	info := func(edit func(*Record)) *Record { r := infoRecord(mod(1)); edit(r); return r }
	gomod := func(edit func(*Record)) *Record { r := modRecord(mod(1)); edit(r); return r }
	setInfo := func(r *Record, data string) {
		r.Data, r.Digest, r.Size = []byte(data), DigestOf([]byte(data)), int64(len(data))
	}
	key := testKey(t)
	for name, r := range map[string]*Record{
		"no mesh":                   zip(func(r *Record) { r.Mesh = "" }),
		"no path":                   zip(func(r *Record) { r.Name.Module.Path = "" }),
		"path that climbs":          zip(func(r *Record) { r.Name.Module.Path = "example.test/../x" }),
		"version not canonical":     zip(func(r *Record) { r.Name.Module.Version = "v1" }),
		"version of another major":  zip(func(r *Record) { r.Name.Module.Version = "v2.0.0" }),
		"unknown kind":              zip(func(r *Record) { r.Name.Kind = "exe" }),
		"data in a zip's record":    zip(func(r *Record) { r.Data = []byte("x") }),
		"negative size":             zip(func(r *Record) { r.Size = -1 }),
		"size beyond the limit":     zip(func(r *Record) { r.Size = MaxZip + 1 }),
		"time before 1970":          zip(func(r *Record) { r.Fetched = time.Unix(-1, 0) }),
		"time after 9999":           zip(func(r *Record) { r.Fetched = time.Unix(maxFetched+1, 0) }),
		"office with a newline":     zip(func(r *Record) { r.Office = "a\nb" }),
		"office with an escape":     zip(func(r *Record) { r.Office = "\x1b[2J" }),
		"office too long":           zip(func(r *Record) { r.Office = strings.Repeat("x", maxText+1) }),
		"source not UTF-8":          zip(func(r *Record) { r.Source = "\xff" }),
		"no authority":              zip(func(r *Record) { r.Vouch.By = "" }),
		"unknown authority":         zip(func(r *Record) { r.Vouch.By = "god" }),
		"database without a proof":  zip(func(r *Record) { r.Vouch = Vouch{By: BySumDB, Database: testDB} }),
		"database named for a pin":  zip(func(r *Record) { r.Vouch = Vouch{By: ByPin, Database: testDB} }),
		"proof of no database":      proven(func(r *Record) { r.Vouch.Database = "" }),
		"proof with a member":       proven(func(r *Record) { r.Vouch.By = ByMember }),
		"proof of another digest":   proven(func(r *Record) { r.Digest[0] ^= 1 }),
		"proof of another module":   proven(func(r *Record) { r.Name.Module = mod(2) }),
		"proof of another kind":     proven(func(r *Record) { r.Name.Kind = Mod }),
		"proof with a huge head":    proven(func(r *Record) { r.Vouch.Proof.TreeHead = make([]byte, maxTreeHead+1) }),
		"proof with a huge path":    proven(func(r *Record) { r.Vouch.Proof.Path = make([]byte, 32*(maxProofLen+1)) }),
		"proof with an uneven path": proven(func(r *Record) { r.Vouch.Proof.Path = make([]byte, 33) }),
		"proof of a negative id":    proven(func(r *Record) { r.Vouch.Proof.ID = -1 }),
		"info vouched for by a pin": info(func(r *Record) { r.Vouch.By = ByPin }),
		"info of another digest":    info(func(r *Record) { r.Digest[0] ^= 1 }),
		"info of another size":      info(func(r *Record) { r.Size++ }),
		"info that is not JSON":     info(func(r *Record) { setInfo(r, "nonsense") }),
		"info of another version":   info(func(r *Record) { setInfo(r, `{"Version":"v1.2.4"}`) }),
		"info too large":            info(func(r *Record) { setInfo(r, `{"Version":"v1.2.3"}`+strings.Repeat(" ", MaxInfo)) }),
		"go.mod of another digest":  gomod(func(r *Record) { r.Data = []byte("module evil.test/x\n"); r.Size = int64(len(r.Data)) }),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Seal(r, key); !errors.Is(err, ErrRecord) {
				t.Errorf("Seal: got %v, want %v", err, ErrRecord)
			}
			if _, err := OpenSigned(sealUnchecked(t, r, key)); !errors.Is(err, ErrRecord) {
				t.Errorf("OpenSigned: got %v, want %v", err, ErrRecord)
			}
		})
	}
}

func TestSealRefusesFractionsOfSeconds(t *testing.T) {
	r := zipRecord(mod(1))
	r.Fetched = r.Fetched.Add(1) // the encoding would lose it
	if _, err := Seal(r, testKey(t)); !errors.Is(err, ErrRecord) {
		t.Errorf("got %v, want %v", err, ErrRecord)
	}
}

// foreign is a record of another kind, which a member may have signed too.
type foreign struct {
	payload
	domain, codec string
}

func (f *foreign) Domain() string { return f.domain }
func (f *foreign) Codec() []byte  { return []byte(f.codec) }

func TestEnvelopesThatAreRefused(t *testing.T) {
	key := testKey(t)
	rec := zipRecord(mod(1))
	good := mustSeal(t, rec, key).Envelope
	other := must(record.Seal(&foreign{payload{rec}, "another domain", recordType}, key)).Marshal
	typed := must(record.Seal(&foreign{payload{rec}, recordDomain, "/meshproxy/record/2"}, key)).Marshal
	ecdsa, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, envelope := range map[string][]byte{
		"empty":                      {},
		"truncated":                  good[:len(good)-1],
		"bad signature":              flipped,
		"more after the end":         append(bytes.Clone(good), 0x7a, 0x01, 'x'),
		"signed for another domain":  must(other()),
		"payload of another type":    must(typed()),
		"key of another type":        sealUnchecked(t, rec, ecdsa),
		"larger than any record is":  make([]byte, MaxRecord+1),
		"office changed by somebody": bytes.Replace(good, []byte("Zürich"), []byte("Zurich!"), 1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := OpenSigned(envelope); !errors.Is(err, ErrRecord) {
				t.Errorf("got %v, want %v", err, ErrRecord)
			}
		})
	}
	if _, err := Seal(rec, ecdsa); err == nil {
		t.Error("Seal took a key that OpenSigned refuses")
	}
}

// Of one record there is one encoding: no edit of a payload decodes to the same.
func TestRecordEncodingIsUnique(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := zipRecord(mod(rapid.IntRange(0, 9).Draw(rt, "module")))
		r.Office = rapid.StringMatching(`[a-z ]{0,20}`).Draw(rt, "office")
		r.Size = rapid.Int64Range(0, MaxZip).Draw(rt, "size")
		data := must(r.marshal())
		i := rapid.IntRange(0, len(data)-1).Draw(rt, "at")
		edited := bytes.Clone(data)
		edited[i] = rapid.Byte().Draw(rt, "byte")
		got, err := unmarshalRecord(edited)
		if err == nil && !bytes.Equal(must(got.marshal()), edited) {
			rt.Fatalf("%x decodes, and encodes as %x", edited, must(got.marshal()))
		}
		if err != nil && bytes.Equal(edited, data) {
			rt.Fatal(err)
		}
	})
}
