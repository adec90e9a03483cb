package node

import (
	"log/slog"
	"strings"
	"testing"
)

// TestAuditIsReadBack: what a client asks for, however long and odd, leaves an audit log
// that can be read.
func TestAuditIsReadBack(t *testing.T) {
	a := newAudit(t.TempDir(), slog.New(slog.DiscardHandler))
	defer a.Close()
	for name, detail := range map[string]string{
		"control characters": strings.Repeat("\x01", 11_000),
		"no UTF-8":           strings.Repeat("\xff", 11_000),
		"long":               strings.Repeat("a", 1<<20),
	} {
		a.note(AuditEntry{What: auditRequest, Client: name, Detail: detail})
		list, err := a.about(10, func(e AuditEntry) bool { return e.Client == name })
		if err != nil || len(list) != 1 {
			t.Errorf("%s: %d entries, %v; want one", name, len(list), err)
		}
	}
}
