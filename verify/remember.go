package verify

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"golang.org/x/mod/sumdb/note"
)

// maxRemembered is how many signatures a remembering verifier knows.
const maxRemembered = 64

// remembering is a verifier that knows again the signatures that it found good
// last: one tree head is part of hundreds of proofs in a row, and to check a
// signature costs a hundred times what it takes to hash it.
type remembering struct {
	note.Verifier

	mu    sync.Mutex                     // guards what follows
	known map[[sha256.Size]byte]struct{} // hashes of message and signature
	order [maxRemembered][sha256.Size]byte
	next  int // place in order of the one to forget
}

func newRemembering(v note.Verifier) *remembering {
	return &remembering{Verifier: v, known: make(map[[sha256.Size]byte]struct{}, maxRemembered)}
}

// Verify implements note.Verifier.
func (r *remembering) Verify(msg, sig []byte) bool {
	h := sha256.New()
	var size [8]byte // tells where the message ends
	binary.BigEndian.PutUint64(size[:], uint64(len(msg)))
	h.Write(size[:])
	h.Write(msg)
	h.Write(sig)
	k := [sha256.Size]byte(h.Sum(nil))
	r.mu.Lock()
	_, ok := r.known[k]
	r.mu.Unlock()
	if ok {
		return true
	}
	if !r.Verifier.Verify(msg, sig) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[k]; ok {
		return true
	}
	delete(r.known, r.order[r.next])
	r.known[k], r.order[r.next] = struct{}{}, k
	r.next = (r.next + 1) % maxRemembered
	return true
}
