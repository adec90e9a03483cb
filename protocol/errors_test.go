package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/meshproxy/meshproxy/protocol"
)

// goShows is what the go command prints of an error's text, by the rules of its
// web package: PROTOCOL section 3.
func goShows(s string) string {
	if !utf8.ValidString(s) {
		return ""
	}
	for _, r := range s {
		if !unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return ""
		}
	}
	var shown strings.Builder
	for i, line := range strings.Split(s, "\n") {
		switch {
		case strings.TrimSpace(line) == "":
			return shown.String()
		case i >= 8 || shown.Len()+len(line) > 648:
			return shown.String() + "[Truncated]"
		}
		if i > 0 {
			shown.WriteString("\n\t")
		}
		shown.WriteString(line)
	}
	return shown.String()
}

func TestStatusOf(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want int
	}{
		{"error", protocol.Errorf(http.StatusForbidden, "no"), 403},
		{"wrapped error", fmt.Errorf("a: %w", protocol.NotFound("b")), 404},
		{"error around a cause", protocol.Errorf(http.StatusBadGateway, "a: %w", fs.ErrNotExist), 502},
		{"not exist", fmt.Errorf("a: %w", fs.ErrNotExist), 404},
		{"a lost file", fmt.Errorf("a: %w", &fs.PathError{Op: "open", Path: "a", Err: syscall.ENOENT}), 500},
		{"deadline", fmt.Errorf("a: %w", context.DeadlineExceeded), 504},
		{"cancelled", fmt.Errorf("a: %w", context.Canceled), 503},
		{"unknown", errors.New("a"), 500},
		{"status out of range", &protocol.Error{Status: 200, Text: "a"}, 500},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := protocol.StatusOf(test.err); got != test.want {
				t.Errorf("status %d, want %d", got, test.want)
			}
		})
	}
}

func TestErrorIsNotExist(t *testing.T) {
	for status, want := range map[int]bool{404: true, 410: true, 403: false, 502: false, 503: false} {
		if got := errors.Is(fmt.Errorf("a: %w", &protocol.Error{Status: status}), fs.ErrNotExist); got != want {
			t.Errorf("%d is fs.ErrNotExist: %v, want %v", status, got, want)
		}
	}
}
