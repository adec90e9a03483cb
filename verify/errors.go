package verify

import (
	"errors"
	"fmt"
)

// What callers tell apart with errors.Is. "Not found" is fs.ErrNotExist, as the
// interfaces of this package say it.
var (
	// ErrMismatch: two sources name different content for one file of a module
	// version. The error is a *MismatchError that names both.
	ErrMismatch = errors.New("different content for the same module version")
	// ErrUnvouched: no pin, no database and no member answers for the content.
	ErrUnvouched = errors.New("nobody vouches for it")
	// ErrUnavailable: a database that must be asked gave no answer that checks.
	// It is an outage, never an answer about the module; trying later may help.
	ErrUnavailable = errors.New("checksum database not available")
	// ErrProof: a proof does not show what it claims to. Whoever made it lied,
	// or damaged it.
	ErrProof = errors.New("proof does not check")
	// ErrRecord: a release record is malformed, contradicts itself, or its
	// signature is not good. Whoever sent it is to blame.
	ErrRecord = errors.New("bad release record")
	// ErrSecurity: a checksum database signed two histories. The error is a
	// *ForkError that holds the evidence.
	ErrSecurity = errors.New("checksum database contradicts itself")
	// ErrNotCached: a request that only the cache may answer finds nothing there.
	// It says nothing about whether the thing exists.
	ErrNotCached = errors.New("not in the cache")
	// ErrPrivate: a database is asked for a module that the operator's patterns
	// keep from it.
	ErrPrivate = errors.New("module is excluded from the checksum database")
)

// MismatchError says who names which content for a file. errors.Is finds
// ErrMismatch in it.
type MismatchError struct {
	Name   Name
	Want   Digest // the side that stays
	WantBy string // who says so: "pin of go.sum:12", "checksum database NAME"
	Got    Digest // the side that is refused
	GotBy  string // who says so: "fetched content", "record signed by ID"
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s: %s says %s, but %s says %s; refused", e.Name,
		e.WantBy, e.Name.digestText(e.Want), e.GotBy, e.Name.digestText(e.Got))
}

// Unwrap makes errors.Is(err, ErrMismatch) true.
func (e *MismatchError) Unwrap() error { return ErrMismatch }

// digestText writes d as people compare it: h1 for what go.sum lists.
func (n Name) digestText(d Digest) string {
	if n.Kind == Info {
		return "sha256:" + d.Hex()
	}
	return d.H1()
}
