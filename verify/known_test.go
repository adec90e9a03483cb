package verify

import (
	"bytes"
	"errors"
	"testing"
)

func TestOpenKnown(t *testing.T) {
	held := mustSeal(t, zipRecord(mod(1)), testKey(t))
	another := mustSeal(t, zipRecord(mod(1)), testKey(t))
	unknown := mustSeal(t, zipRecord(mod(2)), testKey(t))
	flipped := bytes.Clone(held.Envelope)
	flipped[len(flipped)-1] ^= 1
	for _, tc := range []struct {
		name     string
		envelope []byte
		same     bool // as what is held
		err      error
	}{
		{"what is held is not opened again", bytes.Clone(held.Envelope), true, nil},
		{"another member's record of the same file is opened", another.Envelope, false, nil},
		{"a name that is not known is opened", unknown.Envelope, false, nil},
		{"what is held with another signature is refused", flipped, false, ErrRecord},
		{"no envelope is refused", []byte("x"), false, ErrRecord},
		{"a larger one than any is refused", make([]byte, MaxRecord+1), false, ErrRecord},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := OpenKnown(tc.envelope, func(n Name) *Signed {
				if n != held.Record.Name {
					return nil
				}
				return held
			})
			if !errors.Is(err, tc.err) || (s == held) != tc.same {
				t.Fatalf("got %v, %v; the held one: %v", s, err, s == held)
			}
			if err == nil && !bytes.Equal(s.Envelope, tc.envelope) {
				t.Error("the record is not that of the envelope")
			}
		})
	}
}
