package member

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Info is what a view says of one member.
type Info struct {
	Peer       peer.ID
	Role       Role
	Office     string
	Expires    time.Time
	Credential *Credential
}

// Invitation is what a view says of one invitation.
type Invitation struct {
	Credential *Credential
	By         peer.ID
	Role       Role
	Office     string
	Expires    time.Time
	Uses       int       // how many nodes it is for
	Admitted   []peer.ID // who joined by it; more than Uses if it was used on both sides of a partition
	Withdrawn  bool
}

// Overused reports whether more nodes joined than the invitation was for: it was
// used on both sides of a partition, and an admin should look at who they are.
func (i Invitation) Overused() bool { return len(i.Admitted) > i.Uses }

// View is what a roster says at one time. It is immutable.
type View struct {
	At          time.Time // the time that it is the answer for
	Until       time.Time // when the answer next changes by itself, zero if never
	members     map[peer.ID]Info
	sorted      []Info
	removed     map[Key]*Revocation
	invitations []Invitation
	policy      *Policy
}

// Member returns what is known of a current member.
func (v *View) Member(id peer.ID) (Info, bool) {
	i, ok := v.members[id]
	return i, ok
}

// Members returns the current members, ordered by peer ID.
func (v *View) Members() []Info { return slices.Clone(v.sorted) }

// Len is the number of current members.
func (v *View) Len() int { return len(v.members) }

// Policy returns the policy in force, nil if there is none.
func (v *View) Policy() *Policy { return v.policy }

// Removed returns the revocation in force against a key, or nil.
func (v *View) Removed(k Key) *Revocation { return v.removed[k] }

// Invitations returns the invitations that are remembered, newest first.
func (v *View) Invitations() []Invitation { return v.invitations }

// Invitation returns what is known of one by its bearer key.
func (v *View) Invitation(bearer Key) (Invitation, bool) {
	i := slices.IndexFunc(v.invitations, func(i Invitation) bool { return i.Credential.Subject() == bearer })
	if i < 0 {
		return Invitation{}, false
	}
	return v.invitations[i], true
}

// Evaluate says who is a member at now.
func (r *Roster) Evaluate(now time.Time) *View {
	v := &View{At: now.Round(0), members: map[peer.ID]Info{}, removed: map[Key]*Revocation{}}
	byTarget := map[Key][]*Revocation{}
	for _, rev := range r.revocationsInForce() {
		byTarget[rev.Target] = append(byTarget[rev.Target], rev)
		// Of several against one key the same one is shown everywhere; a
		// removal outranks a leave, after which a node may come back.
		have := v.removed[rev.Target]
		if have == nil || have.Leave() && !rev.Leave() ||
			have.Leave() == rev.Leave() && compareIDs(rev.id, have.id) < 0 {
			v.removed[rev.Target] = rev
		}
	}
	admitted := map[Key][]peer.ID{}
	for subject, known := range r.credentials {
		if subject.kind == Node {
			r.evaluateNode(v, subject.key, known, byTarget, admitted, now)
		}
	}
	r.evaluateInvitations(v, byTarget, admitted)
	v.policy = r.policyInForce(byTarget)
	v.sorted = slices.SortedFunc(maps.Values(v.members), func(a, b Info) int { return strings.Compare(string(a.Peer), string(b.Peer)) })
	return v
}

func (r *Roster) evaluateNode(v *View, subject Key, known []*Credential, byTarget map[Key][]*Revocation,
	admitted map[Key][]peer.ID, now time.Time) {
	var invitations []Key
	for _, c := range known { // what counts most first
		g := c.Grant()
		if inv, ok := c.Invitation(); ok && !slices.Contains(invitations, inv.Subject) {
			invitations = append(invitations, inv.Subject)
		}
		if !sound(c, byTarget) {
			continue
		}
		from, until := time.Unix(g.Issued, 0).Add(-Skew), time.Unix(g.Expires, 0)
		v.changesAt(now, from)
		v.changesAt(now, until)
		id := subject.Peer()
		if _, have := v.members[id]; !have && !now.Before(from) && now.Before(until) {
			v.members[id] = Info{id, g.Role, g.Office, until.UTC(), c}
		}
	}
	for _, k := range invitations {
		admitted[k] = append(admitted[k], subject.Peer())
	}
}

// has reports whether a key is a member at now, as Evaluate would say.
func (r *Roster) has(k Key, now time.Time) bool {
	v := &View{members: map[peer.ID]Info{}}
	r.evaluateNode(v, k, r.credentials[subject{Node, k}], r.revokedBy(), map[Key][]peer.ID{}, now)
	return len(v.members) > 0
}

func (v *View) changesAt(now, t time.Time) {
	if t.After(now) && (v.Until.IsZero() || t.Before(v.Until)) {
		v.Until = t
	}
}

func (r *Roster) evaluateInvitations(v *View, byTarget map[Key][]*Revocation, admitted map[Key][]peer.ID) {
	for subject, known := range r.credentials {
		if subject.kind != Invite {
			continue
		}
		c := known[0]
		g := c.Grant()
		slices.Sort(admitted[subject.key])
		v.invitations = append(v.invitations, Invitation{
			Credential: c, By: c.issuer(len(c.grants) - 1).Peer(), Role: g.Role, Office: g.Office,
			Expires: time.Unix(g.Expires, 0).UTC(), Uses: int(g.Uses),
			Admitted: admitted[subject.key], Withdrawn: !sound(c, byTarget),
		})
	}
	slices.SortFunc(v.invitations, func(a, b Invitation) int { return newestFirst(a.Credential, b.Credential) })
}

// sound reports whether no revocation in force takes the credential away: not
// its subject, and none of the keys that signed or witnessed it, unless that
// revocation lets the signature stand.
func sound(c *Credential, byTarget map[Key][]*Revocation) bool {
	if len(byTarget) == 0 {
		return true
	}
	for _, rev := range byTarget[c.Subject()] {
		if !rev.Leave() || c.Grant().Issued <= rev.At {
			return false
		}
	}
	if w := c.wire.Witness; w != nil && !stands(c.ids[len(c.ids)-1], byTarget[w.By]) {
		return false
	}
	for i := range c.grants {
		if !stands(c.ids[i], byTarget[c.issuer(i)]) {
			return false
		}
	}
	return true
}

// stands reports whether every removal of who signed a link lets it stand. Who
// has left has done nothing wrong.
func stands(link ID, removals []*Revocation) bool {
	return !slices.ContainsFunc(removals, func(v *Revocation) bool { return !v.Leave() && !v.keeps(link) })
}

// revocationsInForce settles which revocations count. One whose author was
// itself revoked counts only if that revocation lets it stand. Where admins
// revoke each other, neither knowing of the other's, all of them are out: a
// removal outranks the right to stay.
func (r *Roster) revocationsInForce() []*Revocation {
	var open []*Revocation
	for _, v := range r.revocations {
		open = append(open, v)
	}
	slices.SortFunc(open, func(a, b *Revocation) int { return compareIDs(a.id, b.id) })
	attacks := func(a, b *Revocation) bool { return a.Target == b.By && !a.Leave() && !a.keeps(b.id) }
	var inForce []*Revocation
	for len(open) > 0 {
		settled := len(open)
		open = slices.DeleteFunc(open, func(b *Revocation) bool {
			return slices.ContainsFunc(inForce, func(a *Revocation) bool { return attacks(a, b) })
		})
		var free, contested []*Revocation
		for _, b := range open {
			if slices.ContainsFunc(open, func(a *Revocation) bool { return a != b && attacks(a, b) }) {
				contested = append(contested, b)
			} else {
				free = append(free, b)
			}
		}
		inForce = append(inForce, free...)
		if open = contested; len(open) == settled { // only mutual ones are left
			for _, b := range open {
				if slices.ContainsFunc(open, func(a *Revocation) bool { return a != b && attacks(b, a) }) {
					inForce = append(inForce, b)
				}
			}
			break
		}
	}
	return inForce
}

// KeepOf lists what a revocation of target should let stand: what it signed and
// witnessed for those who are members at now, and its own revocations; of more than
// MaxKeep of them the oldest, so that nobody becomes irrevocable by letting many in.
func (r *Roster) KeepOf(target Key, now time.Time) []ID {
	type statement struct {
		at int64
		id ID
	}
	var keep []statement
	for _, m := range r.Evaluate(now).Members() {
		c := m.Credential
		for i, g := range c.grants {
			if c.issuer(i) == target {
				keep = append(keep, statement{g.Issued, c.ids[i]})
			}
		}
		if w := c.wire.Witness; w != nil && w.By == target {
			keep = append(keep, statement{w.At, c.ids[len(c.ids)-1]})
		}
	}
	for id, v := range r.revocations {
		if v.By == target {
			keep = append(keep, statement{v.At, id})
		}
	}
	slices.SortFunc(keep, func(a, b statement) int { return cmp.Or(cmp.Compare(a.at, b.at), compareIDs(a.id, b.id)) })
	keep = slices.Compact(keep)
	var ids []ID
	for _, s := range keep[:min(len(keep), MaxKeep)] {
		ids = append(ids, s.id)
	}
	slices.SortFunc(ids, compareIDs)
	return slices.Compact(ids)
}

// Admits reports whether the invitation has a use left for p; who was admitted
// before may come again.
func (i Invitation) Admits(p peer.ID) bool {
	return len(i.Admitted) < i.Uses || slices.Contains(i.Admitted, p)
}
