package store

import (
	"errors"
	"fmt"

	"github.com/meshproxy/meshproxy/store/modzip"
	"github.com/meshproxy/meshproxy/verify"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound: the store does not hold it.
	ErrNotFound = errors.New("not in the store")
	// ErrConflict: another digest is already recorded for the name. The error is
	// a *ConflictError.
	ErrConflict = errors.New("another digest is recorded")
	// ErrIncomplete: a zip cannot be committed or opened because files of its
	// listing are missing.
	ErrIncomplete = errors.New("files are missing")
	// ErrDamaged: what is on disk is not what was written. It is quarantined and
	// must be fetched again.
	ErrDamaged = errors.New("damaged on disk")
	// ErrBadFile: bytes are not the file or zip that they claim to be. Nothing of
	// them was kept.
	ErrBadFile = modzip.ErrBadFile
	// ErrLocked: another process holds the directory.
	ErrLocked = errors.New("store is in use by another process")
	// ErrNewer: the directory was written by a newer version of this program.
	ErrNewer = errors.New("store was written by a newer version")
	// ErrFull: too little space is left on the disk to write safely. Reads go on.
	ErrFull = errors.New("disk is full")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrFailed: an earlier write failed in a way after which nothing may be
	// written. The store must be opened again.
	ErrFailed = errors.New("store failed")
	// ErrBusy: the zip is being staged or released by somebody else.
	ErrBusy = errors.New("zip is in use")
)

// ConflictError is a refusal of a second digest for a name. The first stays.
type ConflictError struct {
	Name verify.Name
	Have *verify.Signed // what the store keeps
	Got  *verify.Signed // what was refused, kept as evidence
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: recorded as %s by %s, refused as %s by %s", e.Name,
		e.Have.Record.Digest, e.Have.Signer, e.Got.Record.Digest, e.Got.Signer)
}

// Unwrap makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Unwrap() error { return ErrConflict }

func damaged(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, err, ErrDamaged)
}
