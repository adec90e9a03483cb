package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// AuditEntry is one line of the audit log. What does not apply is left out.
type AuditEntry struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`             // one of the words below
	Module string    `json:"module,omitempty"` // path@version, or the path alone
	File   string    `json:"file,omitempty"`   // of the module version: info, mod or zip
	Digest string    `json:"digest,omitempty"`
	Office string    `json:"office,omitempty"` // who did it, or whom it is about
	Peer   string    `json:"peer,omitempty"`
	Source string    `json:"source,omitempty"` // where bytes came from
	Client string    `json:"client,omitempty"` // name or address of who asked
	Detail string    `json:"detail,omitempty"` // reason, policy line, who vouches
}

// What an audit entry is about.
const (
	auditAdmitted  = "admitted"  // this office fetched a file and let it in
	auditAccepted  = "accepted"  // a record of another office was let in
	auditRefused   = "refused"   // a file was not let in, or a client was not served
	auditConflict  = "conflict"  // a second content for a name was refused
	auditJoined    = "joined"    // a member is in
	auditOut       = "out"       // a member is in no more
	auditPolicy    = "policy"    // a policy has come into force, or is broken
	auditPublished = "published" // this office published a policy or a module
	auditRequest   = "request"   // a client asked
	auditDenied    = "denied"    // a client was not let in
)

const (
	auditFile = "audit.jsonl"
	// maxAudit is the size from which on a new file is begun; old ones stay, under a
	// name with the time.
	maxAudit = 64 << 20
	// maxAuditLine bounds what is read back as one entry.
	maxAuditLine = 64 << 10
	// maxDetail bounds the longest part of an entry, of which each byte may take six in
	// a line.
	maxDetail = maxAuditLine / 8
	// repeatedFor is how long the same refusal is not written again: a build repeats
	// its requests, and a loop would fill the disk.
	repeatedFor = 10 * time.Minute
	maxRepeats  = 10_000
)

// audit is the append-only log of what an operator may have to account for. A nil
// one writes nothing.
type audit struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	file  *os.File             // guarded by mu; nil until something is written
	size  int64                // guarded by mu
	known map[string]time.Time // guarded by mu; refusals that were written lately
}

func newAudit(dir string, log *slog.Logger) *audit {
	return &audit{path: filepath.Join(dir, auditFile), log: log, known: map[string]time.Time{}}
}

// note writes an entry. That it cannot be written is logged and stops nothing.
func (a *audit) note(e AuditEntry) {
	if a == nil {
		return
	}
	e.At = time.Now().UTC().Truncate(time.Millisecond)
	e.Detail = e.Detail[:min(len(e.Detail), maxDetail)]
	line, err := json.Marshal(e)
	if err == nil {
		a.mu.Lock()
		err = a.write(append(line, '\n'))
		a.mu.Unlock()
	}
	if err != nil {
		a.log.Error("cannot write the audit log", "file", a.path, "entry", e.What, "err", err)
	}
}

// noteOnce is note, but not for what was noted lately.
func (a *audit) noteOnce(e AuditEntry) {
	if a == nil {
		return
	}
	key := e.What + " " + e.Module + " " + e.Client + " " + e.Detail
	now := time.Now()
	a.mu.Lock()
	again := now.Sub(a.known[key]) < repeatedFor
	if !again {
		if len(a.known) >= maxRepeats {
			clear(a.known)
		}
		a.known[key] = now
	}
	a.mu.Unlock()
	if !again {
		a.note(e)
	}
}

// write appends a line in one piece; a.mu is held.
func (a *audit) write(line []byte) error {
	if a.file != nil && a.size+int64(len(line)) > maxAudit {
		old := a.path[:len(a.path)-len(".jsonl")] + time.Now().UTC().Format("-20060102T150405.000") + ".jsonl"
		if err := errors.Join(a.file.Close(), os.Rename(a.path, old)); err != nil {
			return err
		}
		a.file = nil
	}
	if a.file == nil {
		f, err := os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		a.file, a.size = f, info.Size()
	}
	n, err := a.file.Write(line)
	a.size += int64(n)
	return err
}

// Close ends the log; what is noted afterwards opens it again.
func (a *audit) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}

// about returns the newest entries that want accepts, oldest first, at most so many.
func (a *audit) about(most int, want func(AuditEntry) bool) ([]AuditEntry, error) {
	list := []AuditEntry{}
	f, err := os.Open(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxAudit+maxAuditLine))
	lines.Buffer(make([]byte, 0, 4<<10), 2*maxAuditLine) // earlier versions wrote longer ones
	for lines.Scan() {
		var e AuditEntry
		if json.Unmarshal(lines.Bytes(), &e) != nil || !want(e) {
			continue // of another version, or cut off by a crash
		}
		if list = append(list, e); len(list) > 2*most {
			list = append(list[:0], list[len(list)-most:]...)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", a.path, err)
	}
	return list[max(0, len(list)-most):], nil
}
