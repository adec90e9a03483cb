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
	}
	refusals = []string{
		"GOVCS disallows", "Authentication failed", "Permission denied (publickey", "Host key verification failed", "403 Forbidden", "401 Unauthorized",
	}
	absences = []string{
		"unknown revision", "no matching versions for query", "invalid version", "no commits", "missing go.mod",
		"repository not found", "Repository not found", "' not found", "does not exist", "does not appear to be a git repository",
		"no go-import meta tags", "404 Not Found", "410 Gone", "could not read Username", "invalid github.com/ import path",
		"module declares its path as", "post-v", "E170000", // svn: URL does not exist
	}
)

// goError makes an error of the go command's message.
func goError(what, message string) error {
	message = cleanMessage(message)
	status := http.StatusBadGateway
	switch {
	case containsAny(message, outages):
	case containsAny(message, refusals):
		status = http.StatusForbidden
	case containsAny(message, absences):
		status = http.StatusNotFound
		what = "not found: " + what
	}
	return &protocol.Error{Status: status, Text: what + ": upstream direct:\n" + message}
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
