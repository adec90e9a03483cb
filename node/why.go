package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/mesh"
	"github.com/meshproxy/meshproxy/mesh/member"
	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// Why says how a module version came to this office.
type Why struct {
	Module module.Version `json:"module"`
	Files  []WhyFile      `json:"files"`
	Policy *Tested        `json:"policy,omitempty"` // what the policy makes of it now; a running node only
	Audit  []AuditEntry   `json:"audit"`            // the newest entries about it
}

// WhyFile says who fetched a file when from where, and who vouches for it.
type WhyFile struct {
	File    string    `json:"file"`
	Digest  string    `json:"digest"`
	Held    bool      `json:"held"` // and not only its record
	Size    int64     `json:"size"`
	Fetched time.Time `json:"fetched"`
	Office  string    `json:"office"`
	Source  string    `json:"source"`
	Signer  string    `json:"signer"`
	Vouched string    `json:"vouched"`
}

// maxWhy bounds the audit entries of an answer.
const maxWhy = 100

// Why implements Governance.
func (k *keeper) Why(_ context.Context, m module.Version) (*Why, error) {
	w := &Why{Module: m, Files: []WhyFile{}}
	for _, kind := range []verify.Kind{verify.Info, verify.Mod, verify.Zip} {
		name := verify.Name{Module: m, Kind: kind}
		s, err := k.store.Record(name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r := &s.Record
		w.Files = append(w.Files, WhyFile{
			File: string(kind), Digest: digestText(name, r.Digest), Held: holds(k.store, name), Size: r.Size, Fetched: r.Fetched,
			Office: r.Office, Source: r.Source, Signer: s.Signer.String(), Vouched: vouchText(r.Vouch),
		})
	}
	var err error
	w.Audit, err = k.audit.about(maxWhy, func(e AuditEntry) bool { return e.Module == m.String() || e.Module == m.Path })
	if err == nil && len(w.Files) == 0 && len(w.Audit) == 0 {
		return nil, fmt.Errorf("%s: neither is it held here nor is it in the audit log", m)
	}
	return w, err
}

// Why implements Governance. It says what the policy makes of it now, too.
func (n *Node) Why(ctx context.Context, m module.Version) (*Why, error) {
	w, err := n.keeper.Why(ctx, m)
	if err == nil {
		w.Policy = n.tested(m)
	}
	return w, err
}

// Why implements Governance.
func (c *Client) Why(ctx context.Context, m module.Version) (*Why, error) {
	return ask[*Why](ctx, c, "why", m)
}

// membersKey is where a node keeps who was a member when it last looked, so that
// what changes while it does not run is noted too.
const membersKey = "audit/members"

const membersPeriod = 2 * time.Second

// watchMembers notes who is in and who is out, until ctx ends.
func (n *Node) watchMembers(ctx context.Context) error {
	tick := time.NewTicker(membersPeriod)
	defer tick.Stop()
	var noted *member.View
	for {
		if v := n.mesh.View(); v != noted {
			if err := n.noteMembers(); err != nil {
				n.log.Warn("cannot note who is a member", "err", err)
			} else {
				noted = v
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// noteMembers notes how the members differ from when it last did.
func (n *Node) noteMembers() error {
	before := map[string]string{} // peer ID to office
	text, err := n.store.Meta(membersKey)
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	now := map[string]string{}
	for _, p := range n.mesh.Members() {
		now[p.String()] = n.officeOf(p)
	}
	var changes []AuditEntry
	for id, office := range now {
		if _, ok := before[id]; !ok {
			changes = append(changes, AuditEntry{What: auditJoined, Office: office, Peer: id})
		}
	}
	for id, office := range before {
		if _, ok := now[id]; !ok {
			changes = append(changes, AuditEntry{What: auditOut, Office: office, Peer: id, Detail: outReason(n.mesh, id)})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	slices.SortFunc(changes, func(a, b AuditEntry) int { return strings.Compare(a.What+a.Peer, b.What+b.Peer) })
	for _, e := range changes {
		n.audit.note(e)
	}
	if text, err = json.Marshal(now); err != nil {
		return err
	}
	return n.store.SetMeta(membersKey, text)
}

// outReason says why somebody is no member any more.
func outReason(m *mesh.Mesh, id string) string {
	if reason, by := m.Reason(id); by != "" {
		return fmt.Sprintf("revoked by %s: %s", by, reason)
	}
	return "its credential has run out, or this office has moved to another mesh"
}
