package sim

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// RosterSize is what the statements about all members take.
type RosterSize struct {
	Members    int
	Statements int
	Bytes      int     // of all statements, as they are stored and sent
	IDs        int     // bytes of the list of their IDs, which two members that differ exchange
	Merge      float64 // processor time to check and take in all of them, in milliseconds
	Evaluate   float64 // processor time to find out from them who belongs, in milliseconds
}

// MeasureRoster makes the real statements about a mesh whose members joined with
// tokens, ten to a token, as its founder would. More than member.MaxMembers do not
// enter a roster.
func MeasureRoster(seed uint64, members int) (r RosterSize, err error) {
	at := time.Now()
	all, roster, err := statements(seed, members, at)
	if err != nil {
		return r, err
	}
	r.Members, r.Statements = members, len(all)
	for _, s := range all {
		r.Bytes += len(s.Credential)
	}
	cpu := processorTime()
	if _, err := roster.Merge(all, at); err != nil {
		return r, err
	}
	r.Merge = millis(processorTime() - cpu)
	ids, err := cbor.Marshal(roster.IDs())
	if err != nil {
		return r, err
	}
	r.IDs = len(ids)
	cpu = processorTime()
	if n := roster.Evaluate(at).Len(); n != members {
		return r, fmt.Errorf("%d members of %d are in the roster", n, members)
	}
	r.Evaluate = millis(processorTime() - cpu)
	return r, nil
}

// perToken is how many members join with one token.
const perToken = 10

func statements(seed uint64, members int, at time.Time) ([]member.Statement, *member.Roster, error) {
	mesh, err := signer(seed, "mesh", 0)
	if err != nil {
		return nil, nil, err
	}
	founder, err := signer(seed, "member", 0)
	if err != nil {
		return nil, nil, err
	}
	grant := func(k member.Key, kind member.Kind, role member.Role, i int) member.Grant {
		g := member.Grant{Kind: kind, Subject: k, Role: role, Issued: at.Unix(), Expires: at.Add(24 * time.Hour).Unix()}
		if kind == member.Node {
			g.Office = fmt.Sprintf("office%d", i)
		} else {
			g.Uses = perToken
		}
		return g
	}
	root, err := member.Found(mesh, grant(founder.Public, member.Node, member.Admin, 0))
	if err != nil {
		return nil, nil, err
	}
	all := []member.Statement{{Credential: root.Bytes()}}
	var invitation *member.Credential
	var bearer member.Signer
	for i := 1; i < members; i++ {
		if i%perToken == 1 {
			if bearer, err = signer(seed, "token", i); err != nil {
				return nil, nil, err
			}
			if invitation, err = member.Issue(root, founder, grant(bearer.Public, member.Invite, member.Member, i)); err != nil {
				return nil, nil, err
			}
			all = append(all, member.Statement{Credential: invitation.Bytes()})
		}
		node, err := signer(seed, "member", i)
		if err != nil {
			return nil, nil, err
		}
		link, err := member.SignJoin(bearer, mesh.Public, grant(node.Public, member.Node, member.Member, i))
		if err != nil {
			return nil, nil, err
		}
		c, err := member.Witnessed(invitation, link, founder, at)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, member.Statement{Credential: c.Bytes()})
	}
	return all, member.NewRoster(mesh.Public, founder.Public), nil
}

// signer makes a key from the seed.
func signer(seed uint64, what string, i int) (member.Signer, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d of %d", what, i, seed))
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(sum[:]))
	if err != nil {
		return member.Signer{}, err
	}
	return member.NewSigner(key)
}
