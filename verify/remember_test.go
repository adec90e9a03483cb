package verify

import (
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// counting is a verifier whose signature of a message is "good ", then it.
type counting struct {
	note.Verifier
	asked int
}

func (c *counting) Verify(msg, sig []byte) bool {
	c.asked++
	return string(sig) == "good "+string(msg)
}

func TestRemembering(t *testing.T) {
	c := &counting{}
	r := newRemembering(c)
	good := func(i int) bool {
		msg := fmt.Sprintf("head %d", i)
		return r.Verify([]byte(msg), []byte("good "+msg))
	}
	for range 3 {
		if !good(0) || c.asked != 1 {
			t.Fatalf("a good signature, asked %d times; want once", c.asked)
		}
	}
	for name, pair := range map[string][2]string{
		"other signature":        {"head 0", "good head 1"},
		"other message":          {"head 1", "good head 0"},
		"the same bytes divided": {"head 0good ", "head 0"},
	} {
		for range 2 {
			if r.Verify([]byte(pair[0]), []byte(pair[1])) {
				t.Errorf("%s: verified", name)
			}
		}
	}
	for i := range 3 * maxRemembered {
		if !good(i) {
			t.Fatalf("signature %d refused", i)
		}
	}
	if len(r.known) != maxRemembered {
		t.Errorf("%d signatures are known, want %d", len(r.known), maxRemembered)
	}
	if c.asked = 0; !good(0) || c.asked != 1 {
		t.Error("one that was forgotten was not checked again")
	}
}
