package protocol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// The go command shows its user at most this much of an error's text, and
// nothing at all of one that is larger, not UTF-8, or has control characters.
const (
	maxErrorLines = 8
	maxErrorBytes = 648
)

// Error is an answer other than success, with the status that a client gets.
// An Error with status 404 or 410 is fs.ErrNotExist to errors.Is: the one error
// after which the go command asks its next proxy.
type Error struct {
	Status int    // HTTP status, 400 to 599
	Text   string // what failed, with which input, who said so, what to do; ErrorText makes it fit
	Err    error  // cause, or nil
}

// Errorf makes an Error; %w is understood.
func Errorf(status int, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Status: status, Text: err.Error(), Err: errors.Unwrap(err)}
}

// NotFound makes an Error with status 404, for what certainly does not exist;
// an outage is no NotFound.
func NotFound(format string, args ...any) *Error {
	return Errorf(http.StatusNotFound, "not found: "+format, args...)
}

// Unavailable makes an Error with status 503, for what cannot be had now.
func Unavailable(format string, args ...any) *Error {
	return Errorf(http.StatusServiceUnavailable, format, args...)
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports that 404 and 410 are fs.ErrNotExist.
func (e *Error) Is(target error) bool {
	return target == fs.ErrNotExist && (e.Status == http.StatusNotFound || e.Status == http.StatusGone)
}

// IsNotFound reports whether err says that there is no such module, version or
// answer: if the first Error in its chain is 404 or 410, or without one, if it is
// fs.ErrNotExist. A file or program that this machine lacks is also fs.ErrNotExist
// to errors.Is, but says nothing of a module: that is not "not found".
func IsNotFound(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.Is(fs.ErrNotExist)
	}
	var local syscall.Errno
	return errors.Is(err, fs.ErrNotExist) && !errors.As(err, &local)
}

// StatusOf maps any error to the status that a client gets: that of the first
// Error in its chain, 404 for what IsNotFound, 504 for a deadline, 503 for work
// that was cancelled, and 500 for all else.
func StatusOf(err error) int {
	var e *Error
	switch {
	case errors.As(err, &e) && e.Status >= 400 && e.Status < 600:
		return e.Status
	case IsNotFound(err):
		return http.StatusNotFound
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// ErrorText makes s fit for the go command, which passes it on as "server
// response": valid UTF-8 without control characters, no blank lines, at most 8
// lines and 648 bytes, of which what comes first is kept.
func ErrorText(s string) string {
	var kept []string
	left := maxErrorBytes
	for line := range strings.Lines(strings.ToValidUTF8(s, "\uFFFD")) {
		line = trimEnd(strings.Map(graphic, line))
		if line == "" {
			continue
		}
		if len(kept) > 0 {
			left -= len("\n\t") // the go command indents, and counts that too
		}
		part := trimEnd(cut(line, left))
		if part == "" || len(kept) == maxErrorLines {
			break
		}
		kept = append(kept, part)
		if left -= len(part); part != line {
			break
		}
	}
	return strings.Join(kept, "\n")
}

// trimEnd drops space at the end of a line; of a blank one nothing is left.
func trimEnd(line string) string { return strings.TrimRightFunc(line, unicode.IsSpace) }

// graphic replaces what a terminal could act on, for strings.Map.
func graphic(r rune) rune {
	switch {
	case r == '\t' || r == '\n' || r == '\r':
		return ' '
	case unicode.IsGraphic(r):
		return r
	}
	return '\uFFFD'
}

// cut shortens s to n bytes at a rune's boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n = max(n, 0)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
