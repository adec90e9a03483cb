package node

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// allowed reports whether a file may come through the door: no policy excludes its
// module version, and no hook refuses it. What is held already was asked about.
func (n *Node) allowed(ctx context.Context, name verify.Name) error {
	err := n.permitted(name.Module)
	if err == nil {
		err = n.validated(ctx, name.Module)
	}
	if err != nil {
		n.refusal(name, err)
	}
	return err
}

// judgeFile has the command judge a zip that was fetched.
func (n *Node) judgeFile(ctx context.Context, f *upstream.Fetched, root verify.Digest) error {
	if !n.policy.HasCommand() || f.Name.Kind != verify.Zip {
		return nil
	}
	path, err := f.Path(filepath.Join(n.cfg.Dir, "incoming"))
	if err != nil {
		return err
	}
	return n.judgeZip(ctx, f.Name, root, path)
}

// judgeStaged has the command judge a zip whose files came from other offices,
// before it is committed.
func (n *Node) judgeStaged(ctx context.Context, rec *verify.Record, staged *store.Staged) error {
	if !n.policy.HasCommand() {
		return nil
	}
	f, err := os.CreateTemp(filepath.Join(n.cfg.Dir, "incoming"), "judge-*.zip")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriterSize(f, 1<<20)
	if err = staged.WriteTo(ctx, w, nil); err == nil {
		err = w.Flush()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return n.judgeZip(ctx, rec.Name, rec.Digest, f.Name())
}

func (n *Node) judgeZip(ctx context.Context, name verify.Name, root verify.Digest, path string) error {
	err := hookError(name.Module, n.policy.ValidateZip(ctx, name.Module, root.Hex(), path))
	if err != nil {
		n.refusal(name, err)
	}
	return err
}

// refusal notes that something was not let in.
func (n *Node) refusal(name verify.Name, err error) {
	n.log.Info("not let in", "file", name.String(), "err", err)
	n.audit.noteOnce(AuditEntry{What: auditRefused, Module: name.Module.String(), File: string(name.Kind), Detail: err.Error()})
}

// policyChanged notes what policy is in force.
func (n *Node) policyChanged(what string, err error) {
	e := AuditEntry{What: auditPolicy, Detail: "in force: " + what}
	if err != nil {
		e.Detail = "broken: " + err.Error()
	}
	n.audit.note(e)
}
