package member

import (
	"cmp"
	"slices"
)

// Of one subject a roster keeps the newest credentials of each of these kinds, so many
// that nobody can push out what others have granted. A member that has kept the token
// by which it came can grant to whom it likes, and so can an admin to those that its own
// right comes from; neither of them was asked.
const (
	// maxPerSubject bounds the credentials by admins whose right does not come from the
	// subject: enough for a renewal by several of them at once.
	maxPerSubject = 4
	// maxPerRole bounds those by others, for each role: by admins below the subject, and
	// by invitation.
	maxPerRole = 1
)

// source says by whose right a credential was granted.
type source uint8

const (
	fromAbove  source = iota // by an admin that could also revoke the subject
	fromBelow                // by one whose own right comes from the subject
	fromBearer               // by invitation
)

func (c *Credential) source() source {
	switch _, invited := c.Invitation(); {
	case invited:
		return fromBearer
	case c.through(c.Subject()):
		return fromBelow
	}
	return fromAbove
}

// kept picks those of one subject's credentials that a roster keeps, the one that
// counts most first. Which those are does not depend on the order in which they came.
func kept(all []*Credential) []*Credential {
	type kind struct {
		source
		Role
	}
	slices.SortFunc(all, newestFirst)
	have := map[kind]int{}
	out := slices.DeleteFunc(all, func(c *Credential) bool {
		k, most := kind{source: c.source()}, maxPerSubject
		if k.source != fromAbove {
			k.Role, most = c.Grant().Role, maxPerRole
		}
		have[k]++
		return have[k] > most
	})
	slices.SortFunc(out, precedence)
	return out
}

// precedence orders the credentials of one subject: whatever a credential gives, no
// other one takes away, as long as it is in force. So an admin is not made a plain
// member by a later grant, and what admins say of an office outranks what stands in a
// grant by invitation.
func precedence(a, b *Credential) int {
	invited := func(c *Credential) int {
		if c.source() == fromBearer {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(b.Grant().Role, a.Grant().Role),
		cmp.Compare(invited(a), invited(b)),
		newestFirst(a, b),
	)
}

func newestFirst(a, b *Credential) int {
	if ga, gb := a.Grant(), b.Grant(); ga.Issued != gb.Issued {
		return int(max(-1, min(1, gb.Issued-ga.Issued)))
	}
	return compareIDs(a.id, b.id)
}
