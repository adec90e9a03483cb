package verify

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Each target holds a decoder to the same: no panic, and what it accepts has one
// encoding.

func FuzzParseListing(f *testing.F) {
	l, err := NewListing([]File{{"b", DigestOf([]byte("1"))}, {"a@v1.0.0/x y", DigestOf([]byte("2"))}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(l.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseListing(data)
		if err == nil && !bytes.Equal(l.Encode(), data) {
			t.Errorf("%q became %q", data, l.Encode())
		}
	})
}

func FuzzOpenSigned(f *testing.F) {
	_, d := testLogAndDatabase(f)
	key := testKey(f)
	for _, r := range []*Record{infoRecord(mod(1)), modRecord(mod(1)), zipRecord(mod(1)), provenRecord(f, d, mod(1))} {
		f.Add(mustSeal(f, r, key).Envelope)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := OpenSigned(data)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Errorf("%v has lost its identity", err)
			}
			return
		}
		if err := s.Record.Check(); err != nil || !bytes.Equal(s.Envelope, data) {
			t.Errorf("accepted, but %v", err)
		}
	})
}

// FuzzRecord reaches what a signature protects FuzzOpenSigned from.
func FuzzRecord(f *testing.F) {
	_, d := testLogAndDatabase(f)
	for _, r := range []*Record{infoRecord(mod(1)), modRecord(mod(1)), zipRecord(mod(1)), provenRecord(f, d, mod(1))} {
		f.Add(must(r.marshal()))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := unmarshalRecord(data)
		if err != nil {
			return
		}
		if again, err := r.marshal(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x became %x, %v", data, again, err)
		}
	})
}

func FuzzProof(f *testing.F) {
	log, d := testLogAndDatabase(f)
	v := log.verifier(f)
	truth := mustProve(f, d, mod(1))
	f.Add(must(encMode.Marshal(truth)))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := new(Proof)
		if decodeExact(decMode, data, p) != nil {
			return
		}
		if err := p.Check(v); err != nil {
			if !errors.Is(err, ErrProof) {
				t.Errorf("%v has lost its identity", err)
			}
			return
		}
		if !bytes.Equal(p.Text, truth.Text) || p.ID != truth.ID {
			t.Errorf("a forged proof checks: %+v", p)
		}
	})
}

func FuzzParseGoSum(f *testing.F) {
	f.Add([]byte("example.test/x v1.0.0 " + testSum + "\nexample.test/x v1.0.0/go.mod " + testSum + "\r\n\n"))
	f.Add([]byte("example.test/x v1.0.0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pins, err := ParseGoSum("go.sum", data)
		if err != nil {
			return
		}
		set := new(Pins)
		if err := set.Add(pins...); err != nil {
			t.Fatal(err)
		}
		again, err := DecodePins(set.Encode())
		if err != nil || len(again.List()) != len(pins) {
			t.Errorf("%d pins became %d, %v", len(pins), len(again.List()), err)
		}
	})
}

func FuzzDecodePins(f *testing.F) {
	set := new(Pins)
	if err := set.Add(pin(1, Zip, "a"), pin(1, Mod, "b"), pin(2, Zip, "c")); err != nil {
		f.Fatal(err)
	}
	f.Add(set.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := DecodePins(data)
		if err != nil {
			return
		}
		if again, err := DecodePins(set.Encode()); err != nil || !bytes.Equal(again.Encode(), set.Encode()) {
			t.Errorf("%x does not survive encoding: %v", data, err)
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	key := newTestLog(f, testDB, "").vkey
	for _, s := range []string{"off", testDB, key, key + " https://x.test/y", key + " http://x.test only=a.test/*,b.test"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := ParseSpec(s)
		if err != nil || spec.Off {
			return
		}
		text := spec.Key + " " + spec.URL
		if spec.Only != "" {
			text += " only=" + spec.Only
		}
		if again, err := ParseSpec(text); err != nil || again != spec {
			t.Errorf("%q is %+v, but %q is %+v, %v", s, spec, text, again, err)
		}
	})
}

func FuzzCheckProofFile(f *testing.F) {
	log, d := testLogAndDatabase(f)
	keys := []note.Verifier{log.verifier(f)}
	f.Add(must(EncodeProofFile(&ProofFile{Signed: mustSeal(f, provenRecord(f, d, mod(1)), testKey(f))})))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := CheckProofFile(data, keys)
		if err != nil {
			return
		}
		text, err := EncodeProofFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckProofFile(text, keys); err != nil {
			t.Errorf("%q does not survive encoding: %v", data, err)
		}
	})
}

// FuzzLookup feeds answers of a database: none but the truth is believed.
func FuzzLookup(f *testing.F) {
	log, _ := testLogAndDatabase(f)
	truth, err := log.ReadRemote(context.Background(), "/lookup/example.test/!some/mod1@v1.2.3")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(truth)
	f.Fuzz(func(t *testing.T, answer []byte) {
		d := log.open(t, newMemCache(), remoteFunc(func(ctx context.Context, path string) ([]byte, error) {
			if path == "/lookup/example.test/!some/mod1@v1.2.3" {
				return answer, nil
			}
			return log.ReadRemote(ctx, path)
		}))
		p, err := d.Prove(context.Background(), mod(1))
		if err == nil {
			checkTruth(t, d, mod(1), p)
		} else if errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v is taken for an answer about the module", err)
		}
	})
}

// FuzzServe asks for any path: it is answered with the truth or refused.
func FuzzServe(f *testing.F) {
	_, d := testLogAndDatabase(f)
	mustProve(f, d, mod(1))
	for _, path := range []string{"supported", "latest", "lookup/example.test/!some/mod1@v1.2.3", "tile/8/0/000", "tile/8/0/001.p/7", "tile/8/data/000", "tile/8/1/000.p/1"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		body, err := d.Serve(context.Background(), path, ServeOptions{CachedOnly: true})
		if tile, bad := tlog.ParseTilePath(path); err == nil && bad == nil && tile.L >= 0 && len(body) != tile.W*tlog.HashSize {
			t.Errorf("%s has %d bytes", path, len(body))
		}
	})
}
