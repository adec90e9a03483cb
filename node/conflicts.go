package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// The store keeps conflicts between two records. Those of which one side is a pin,
// a checksum database or content that nobody signed are kept here.
const (
	conflictPrefix = "conflict/"
	// maxConflicts bounds them, because a liar can make as many as it likes. The
	// first ones stay.
	maxConflicts = 1024
)

// digestText writes a digest as people compare it: h1 for what go.sum lists.
func digestText(name verify.Name, d verify.Digest) string {
	if name.Kind == verify.Info {
		return "sha256:" + d.Hex()
	}
	return d.H1()
}

// statement is what a record says, as one side of a conflict.
func statement(s *verify.Signed) Statement {
	r := &s.Record
	return Statement{Digest: digestText(r.Name, r.Digest), Office: r.Office, Signer: s.Signer.String(),
		Source: r.Source, Fetched: r.Fetched, Evidence: s.Envelope}
}

// mismatchConflict is the conflict behind an error of package verify. refused is
// the record that did not convince, nil if there is none.
func mismatchConflict(e *verify.MismatchError, refused *verify.Signed) Conflict {
	c := Conflict{
		Name:  e.Name.String(),
		Kept:  Statement{Digest: digestText(e.Name, e.Want), Source: e.WantBy},
		Other: Statement{Digest: digestText(e.Name, e.Got), Source: e.GotBy},
	}
	if refused != nil && refused.Record.Digest == e.Got {
		c.Other = statement(refused)
	}
	return c
}

// keepConflict keeps a conflict durably, once for each two contents. It reports
// whether it is new.
func keepConflict(s *store.Store, c Conflict) (bool, error) {
	sum := sha256.Sum256([]byte(c.Name + "\n" + c.Kept.Digest + "\n" + c.Other.Digest))
	key := conflictPrefix + hex.EncodeToString(sum[:])
	if _, err := s.Meta(key); !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	kept := 0
	if err := s.Metas(conflictPrefix, func(string, []byte) error { kept++; return nil }); err != nil {
		return false, err
	}
	if kept >= maxConflicts {
		return false, nil
	}
	c.At = time.Now().UTC().Truncate(time.Second)
	text, err := json.Marshal(c)
	if err == nil && len(text) > store.MaxValue {
		c.Other.Evidence = nil // a .mod of megabytes: its digest and signer must do
		text, err = json.Marshal(c)
	}
	if err != nil {
		return false, err
	}
	return true, s.SetMeta(key, text)
}

// conflicts lists all that are kept, oldest first.
func conflicts(s *store.Store, databases []*verify.Database) ([]Conflict, error) {
	list := []Conflict{}
	records, err := s.Conflicts()
	if err != nil {
		return nil, err
	}
	for _, c := range records {
		out := Conflict{Name: c.Name.String(), Other: statement(c.Got), At: c.At}
		if c.Have != nil {
			out.Kept = statement(c.Have)
		}
		list = append(list, out)
	}
	err = s.Metas(conflictPrefix, func(name string, value []byte) error {
		var c Conflict
		if err := json.Unmarshal(value, &c); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, c)
		return nil
	})
	for _, db := range databases {
		list = append(list, forks(db)...)
	}
	slices.SortStableFunc(list, func(a, b Conflict) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Name, b.Name)) })
	return list, err
}

// forks is the evidence against a checksum database that signed two histories.
func forks(db *verify.Database) []Conflict {
	var list []Conflict
	for _, f := range db.Forks() {
		by := "checksum database " + db.Name()
		list = append(list, Conflict{
			Name:  by,
			Kept:  Statement{Digest: headText(f.Older), Source: by, Evidence: f.Older},
			Other: Statement{Digest: headText(f.Newer), Source: by, Evidence: []byte(f.Report())},
		})
	}
	return list
}

// conflictCount is how many conflicts are kept; cheap enough for every status.
func conflictCount(s *store.Store, databases []*verify.Database) int {
	n := int(s.Accounting().Conflicts)
	if err := s.Metas(conflictPrefix, func(string, []byte) error { n++; return nil }); err != nil {
		return n // what cannot be read is not hidden: conflicts itself fails
	}
	for _, db := range databases {
		n += len(db.Forks())
	}
	return n
}

// Conflicts implements Control.
func (n *Node) Conflicts(context.Context) ([]Conflict, error) { return conflicts(n.store, n.databases) }

// Conflicts implements Control.
func (o *Offline) Conflicts(context.Context) ([]Conflict, error) {
	databases, err := savedDatabases(o.store)
	if err != nil {
		return nil, err
	}
	return conflicts(o.store, databases)
}

// disputed keeps the evidence that is in err, if two sources name different
// content. The other one came from source, and if it came in a record, that is
// refused.
func (n *Node) disputed(err error, source string, refused *verify.Signed) {
	var mismatch *verify.MismatchError
	if !errors.As(err, &mismatch) {
		return
	}
	c := mismatchConflict(mismatch, refused)
	if refused == nil {
		c.Other.Source += " from " + source
	}
	fresh, keepErr := keepConflict(n.store, c)
	if keepErr != nil {
		n.log.Error("cannot keep the evidence of a conflict", "err", keepErr)
	}
	if fresh {
		n.counts.conflicts.Add(1)
		n.audit.note(AuditEntry{What: auditConflict, Module: mismatch.Name.Module.String(), File: string(mismatch.Name.Kind), Source: source, Detail: err.Error()})
		n.log.Error("conflict: a second content for the same module version was refused; see: meshproxy conflicts",
			"file", mismatch.Name.String(), "from", source, "err", err)
	}
}

// conflicted is what a client hears of a conflict between two records.
func (n *Node) conflicted(e *store.ConflictError) error {
	have, got := &e.Have.Record, &e.Got.Record
	n.counts.conflicts.Add(1)
	n.audit.note(AuditEntry{What: auditConflict, Module: e.Name.Module.String(), File: string(e.Name.Kind), Peer: e.Got.Signer.String(),
		Detail: digestText(e.Name, have.Digest) + " stays, " + digestText(e.Name, got.Digest) + " is refused"})
	n.log.Error("conflict: a second content for the same module version was refused; see: meshproxy conflicts",
		"file", e.Name.String(), "have", digestText(e.Name, have.Digest), "got", digestText(e.Name, got.Digest),
		"signer", e.Got.Signer.String())
	return &protocol.Error{Status: http.StatusConflict, Err: e, Text: fmt.Sprintf(
		"%s: office %s got %s from %s, but office %s gets %s from %s; the first stays, the second is refused",
		e.Name, have.Office, digestText(e.Name, have.Digest), have.Source, got.Office, digestText(e.Name, got.Digest), got.Source)}
}

// headText is what a signed tree head says, on one line.
func headText(note []byte) string {
	size, hash, err := parseHead(note)
	if err != nil {
		return "tree head that cannot be read"
	}
	return fmt.Sprintf("tree of %d records, %s", size, hash)
}
