package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// admit is the door for what this node fetched itself: it finds who vouches for
// the bytes, makes a signed record, and commits both. Then the mesh is told. seen,
// if it is not nil, is called as soon as clients may have the file (see early).
func (n *Node) admit(ctx context.Context, f *upstream.Fetched, seen func()) (*verify.Signed, error) {
	if err := n.allowed(ctx, f.Name); err != nil {
		return nil, err
	}
	rec := verify.Record{
		Mesh: n.mesh.MeshID(), Name: f.Name, Size: f.Size,
		Fetched: time.Now().UTC().Truncate(time.Second), Office: n.Office(), Source: sourceText(f.Source),
	}
	var staged *store.Staged
	var scanned *store.Scanned
	switch f.Name.Kind {
	case verify.Info:
		rec.Data, rec.Digest = f.Data, verify.DigestOf(f.Data)
	case verify.Mod:
		rec.Data, rec.Digest = f.Data, verify.DigestMod(f.Data)
	case verify.Zip:
		var err error
		if scanned, err = store.ScanZip(ctx, f.Content(), f.Size, f.Name.Module); err != nil {
			return nil, protocol.Errorf(http.StatusBadGateway, "%s from %s: %w", f.Name, f.Source, err)
		}
		rec.Digest, rec.Size = scanned.Root, scanned.Size
	}
	vouch, err := n.trust().Vouch(ctx, f.Name, rec.Digest)
	if err != nil {
		n.counts.unadmitted(&n.counts.unverified.upstream, err)
		n.disputed(err, f.Source, nil)
		return nil, refused(f.Name, err)
	}
	rec.Vouch = vouch
	if scanned != nil {
		if err := n.judgeFile(ctx, f, rec.Digest); err != nil {
			return nil, err
		}
		if staged, err = n.store.StageZip(ctx, scanned); err != nil {
			return nil, fmt.Errorf("keep %s: %w", f.Name, err)
		}
		defer staged.Close()
	}
	signed, err := verify.Seal(&rec, n.mesh.Key())
	if err != nil {
		return nil, err
	}
	if err := n.commit(ctx, signed, staged, seen); err != nil {
		return nil, err
	}
	n.noteAdmission(AuditEntry{What: auditAdmitted, Source: rec.Source}, &rec)
	n.tell(signed)
	return signed, nil
}

// sourceText is what a record says of where the bytes came from.
func sourceText(source string) string {
	if source == "direct" || source == sourceImport || source == sourcePublish {
		return source
	}
	return "proxy " + source
}

// commit writes a record, and the files of a zip if there are any, and drops
// what memory holds of it. seen, if it is not nil, is called when clients may have
// the file.
func (n *Node) commit(ctx context.Context, s *verify.Signed, staged *store.Staged, seen func()) error {
	if !early(&s.Record) {
		seen = nil
	}
	// Once begun it is not given up: a client may have the file by then, and what was
	// admitted has to stand in the audit log.
	err := n.store.CommitSeen(context.WithoutCancel(ctx), s, staged, seen)
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		return n.conflicted(conflict)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", s.Record.Name, err)
	}
	if staged != nil {
		n.leftovers.drop(staged.Root)
	}
	return nil
}

// early reports whether clients may have a file before it is safe on disk: if a
// checksum database vouches for it. After a loss of power it would be fetched again,
// and could only be the same. What nobody else vouches for could come back as
// something else, so that who has it must be able to rely on it being kept. Other
// offices are told of neither before it is safe.
func early(r *verify.Record) bool { return r.Vouch.Proof != nil && r.Name.Kind != verify.Info }

// accept is the door for a record that another office handed over: package
// verify says whether it convinces. The files of a zip come later, and only as
// far as they hash to it. A second content for a name is a *store.ConflictError.
// seen is as for admit.
func (n *Node) accept(ctx context.Context, from peer.ID, s *verify.Signed, seen func()) error {
	if err := n.allowed(ctx, s.Record.Name); err != nil {
		return err
	}
	if err := n.publishable(&s.Record); err != nil {
		n.refusal(s.Record.Name, err)
		return err
	}
	if err := n.trust().CheckSigned(ctx, s); err != nil {
		n.counts.unadmitted(&n.counts.unverified.peer, err)
		n.disputed(err, "office "+n.officeOf(from), s)
		if isLie(err) && from != n.mesh.ID() {
			n.exchange().Blame(from, err)
		}
		return refused(s.Record.Name, err)
	}
	_, before := n.store.Record(s.Record.Name)
	err := n.commit(ctx, s, nil, seen)
	if err == nil && before != nil {
		n.noteAdmission(AuditEntry{What: auditAccepted, Peer: from.String(), Source: "office " + n.officeOf(from)}, &s.Record)
	}
	return err
}

// noteAdmission notes that a file has come through the door.
func (n *Node) noteAdmission(e AuditEntry, rec *verify.Record) {
	e.Module, e.File, e.Digest, e.Office = rec.Name.Module.String(), string(rec.Name.Kind), digestText(rec.Name, rec.Digest), rec.Office
	e.Detail = "vouched for by " + vouchText(rec.Vouch) + "; " + n.policy.Decide(rec.Name.Module).Reason()
	n.audit.note(e)
}

// isLie reports whether an honest office would not have handed over the record that
// err is about: it would have found the same. A pin is this office's alone, and who
// is a member may be known here first.
func isLie(err error) bool {
	var mismatch *verify.MismatchError
	return errors.Is(err, verify.ErrRecord) || errors.Is(err, verify.ErrProof) ||
		errors.As(err, &mismatch) && !strings.HasPrefix(mismatch.WantBy, "pin ")
}

// refused says with which status a client hears that bytes were not admitted:
// an outage of whoever should vouch for them is no statement about them.
func refused(name verify.Name, err error) error {
	status := http.StatusForbidden
	if errors.Is(err, verify.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		status = http.StatusServiceUnavailable
	}
	return protocol.Errorf(status, "%s: not admitted: %w", name, err)
}
