package member

import (
	"bytes"
	"testing"
)

func FuzzParseToken(f *testing.F) {
	w := newWorld(f)
	bearer, seed, err := NewBearer()
	if err != nil {
		f.Fatal(err)
	}
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 1, start))
	f.Add(must[*Token](f)(NewToken(inv, seed, []Hint{{Peer: w.founder.Public}})).String())
	f.Add(tokenPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := ParseToken(text)
		if err != nil {
			return
		}
		again, err := ParseToken(tok.String())
		if err != nil || again.String() != tok.String() {
			t.Fatalf("%q is read back as another token: %v", text, err)
		}
	})
}

// FuzzTokenBody goes behind the checksum.
func FuzzTokenBody(f *testing.F) {
	w := newWorld(f)
	bearer, seed, err := NewBearer()
	if err != nil {
		f.Fatal(err)
	}
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 1, start))
	f.Add(encode(tokenWire{inv.Mesh(), seed, inv.Links(), []Hint{{Peer: w.founder.Public, Addrs: [][]byte{{1}}}}}))
	f.Fuzz(func(t *testing.T, body []byte) {
		if tok, err := decodeToken(body); err == nil && len(tok.Hints) > maxHints {
			t.Fatal("more addresses than allowed")
		}
	})
}

func FuzzParseCredential(f *testing.F) {
	w := newWorld(f)
	f.Add(w.root.Bytes())
	bearer := w.signer()
	inv := w.issue(w.root, w.founder, inviteGrant(bearer.Public, Member, "", 1, start))
	f.Add(w.enrol(inv, bearer, w.signer(), w.founder, "x", start).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCredential(b)
		if err != nil {
			return
		}
		again, err := ParseCredential(c.Bytes())
		if err != nil || again.ID() != c.ID() || !bytes.Equal(again.Bytes(), c.Bytes()) {
			t.Fatalf("not stable: %v", err)
		}
	})
}

func FuzzParseRevocation(f *testing.F) {
	w := newWorld(f)
	r := w.roster()
	w.add(r, w.root)
	f.Add(w.revoke(r, w.founder, w.signer().Public, start).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseRevocation(b)
		if err != nil {
			return
		}
		if again, err := ParseRevocation(v.Bytes()); err != nil || again.ID() != v.ID() {
			t.Fatalf("not stable: %v", err)
		}
	})
}

func FuzzParseRotation(f *testing.F) {
	w := newWorld(f)
	own := nodeGrant(w.founder.Public, Admin, "x", start)
	r, err := Rotate(w.founder, w.mesh.Public, nil, w.signer(), own, []Grant{nodeGrant(w.signer().Public, Member, "y", start)}, start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseRotation(b)
		if err != nil {
			return
		}
		if again, err := ParseRotation(v.Bytes()); err != nil || again.ID() != v.ID() {
			t.Fatalf("not stable: %v", err)
		}
	})
}

// FuzzMerge gives a roster whatever comes; it must stay as it is or hold.
func FuzzMerge(f *testing.F) {
	w := newWorld(f)
	base := w.roster()
	w.add(base, w.root)
	plain := w.signer()
	f.Add(w.issue(w.root, w.founder, nodeGrant(plain.Public, Member, "x", start)).Bytes(), false)
	f.Add(w.revoke(base, w.founder, plain.Public, start).Bytes(), true)
	f.Fuzz(func(t *testing.T, b []byte, revocation bool) {
		r := base.Clone()
		s := Statement{Credential: b}
		if revocation {
			s = Statement{Revocation: b}
		}
		before := r.Sum()
		changed, _ := r.Merge([]Statement{s, s}, start)
		if changed == (r.Sum() == before) {
			t.Fatal("Merge says the wrong thing about what changed")
		}
		if !isMember(r, w.founder, start) {
			t.Fatal("the founder is out")
		}
	})
}
