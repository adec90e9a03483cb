package upstream

import (
	"net/http"
	"strings"

	"github.com/meshproxy/meshproxy/protocol"
)

// The go command tells what went wrong in words only: its exit status is 1 for
// everything. These are the words that decide; all else is 502, never 404.
var (
	// outages come first: a message may quote a 404 on the way to one.
	outages = []string{
		"dial tcp", "connection refused", "connection reset", "i/o timeout", "TLS handshake", "Could not resolve host", "Connection timed out",
		"Temporary failure in name resolution", "no such host", "Network is unreachable", "500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable", "504 Gateway",
		"Failed to connect", "returned error: 5", // git
	}
	refusals = []string{
		"GOVCS disallows", "Authentication failed", "Permission denied (publickey", "Host key verification failed", "403 Forbidden", "401 Unauthorized",
	}
	absences = []string{
		"unknown revision", "no matching versions for query", "invalid version", "no commits", "missing go.mod", "does not exist",
		"no go-import meta tags", "404 Not Found", "410 Gone", "invalid github.com/ import path",
		"module declares its path as", "has post-v",
	}
	// saidAbsent is what version control programs say of what is not there.
	saidAbsent = []string{
		"unknown revision", "repository not found", "Repository not found", "' not found", "could not be found", "does not exist",
		"does not appear to be a git repository", "repository not exported", "could not read Username", "E170000", // svn: URL does not exist
	}
	// ends are how the go command tells that such a program failed; what it said follows.
	ends = []string{": exit status ", ": signal: "}
)

// goError makes an error of the go command's message.
func goError(what, message string) error {
	message = cleanMessage(message)
	status := http.StatusBadGateway
	switch {
	case containsAny(message, outages):
	case containsAny(message, refusals):
		status = http.StatusForbidden
	case isAbsence(message):
		status = http.StatusNotFound
		what = "not found: " + what
	}
	return &protocol.Error{Status: status, Text: what + ": upstream direct:\n" + message}
}

// isAbsence reports whether a message says that something is not there. Where a program
// failed only its own words count: the go command calls the version invalid that it
// could not ask for, whatever the reason.
func isAbsence(message string) bool {
	for _, end := range ends {
		if _, said, ok := strings.Cut(message, end); ok {
			return containsAny(said, saidAbsent)
		}
	}
	return containsAny(message, absences)
}

func containsAny(s string, words []string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// cleanMessage leaves out what is no part of an error: progress of downloads,
// and the program's own name.
func cleanMessage(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\r\n \t")
		line = strings.TrimPrefix(line, "go: ")
		if line == "" || strings.HasPrefix(line, "downloading ") || strings.HasPrefix(line, "finding ") {
			continue
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
