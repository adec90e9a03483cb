package member

import (
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind says what a grant makes of its subject.
type Kind uint8

const (
	// Node: the subject is a member's own key.
	Node Kind = 1
	// Invite: the subject is a bearer key, and whoever holds it may join.
	Invite Kind = 2
)

// Role says what a node may do.
type Role uint8

const (
	// Member takes part and enrols who brings a token.
	Member Role = 1
	// Admin also invites, renews and revokes.
	Admin Role = 2
)

// ParseRole reads "member" or "admin".
func ParseRole(s string) (Role, error) {
	switch s {
	case "member":
		return Member, nil
	case "admin":
		return Admin, nil
	}
	return 0, fmt.Errorf("role %.40q: want member or admin", s)
}

func (r Role) String() string {
	switch r {
	case Member:
		return "member"
	case Admin:
		return "admin"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Times of grants.
const (
	// MaxLifetime is the longest a grant may run.
	MaxLifetime = 2 * 366 * 24 * time.Hour
	// Skew is how far two members' clocks may be apart.
	Skew = 10 * time.Minute
)

// Grant is what one link of a chain says. Times are Unix seconds.
type Grant struct {
	Kind    Kind   `cbor:"1,keyasint"`
	Subject Key    `cbor:"2,keyasint"`
	Role    Role   `cbor:"3,keyasint"`
	Office  string `cbor:"4,keyasint,omitempty"` // empty in an invitation: the joiner says
	Issued  int64  `cbor:"5,keyasint"`
	Expires int64  `cbor:"6,keyasint"`
	Uses    uint32 `cbor:"7,keyasint,omitempty"` // of an invitation
	// Origin, in a founder's grant, is the first mesh key of a mesh whose key was
	// rotated: it goes on naming the mesh.
	Origin []byte `cbor:"8,keyasint,omitempty"`
}

// ErrChain says that a chain of grants does not hold.
var ErrChain = errors.New("credential chain does not hold")

func (g *Grant) check() error {
	switch {
	case g.Kind != Node && g.Kind != Invite:
		return fmt.Errorf("%w: unknown kind %d", ErrChain, g.Kind)
	case g.Role != Member && g.Role != Admin:
		return fmt.Errorf("%w: unknown role %d", ErrChain, g.Role)
	case g.Issued <= 0 || g.Expires <= g.Issued || g.Expires-g.Issued > int64(MaxLifetime/time.Second):
		return fmt.Errorf("%w: runs from %d to %d", ErrChain, g.Issued, g.Expires)
	case len(g.Origin) != 0 && len(g.Origin) != len(Key{}):
		return fmt.Errorf("%w: origin of %d bytes", ErrChain, len(g.Origin))
	case g.Kind == Invite && (g.Uses == 0 || g.Uses > MaxUses):
		return fmt.Errorf("%w: invitation for %d uses", ErrChain, g.Uses)
	case g.Kind == Node && (g.Uses != 0 || g.Office == ""):
		return fmt.Errorf("%w: node without office, or with uses", ErrChain)
	}
	return CheckOffice(g.Office, g.Kind == Invite)
}

// CheckOffice says whether a name can be an office: 1 to MaxOffice bytes of
// printable UTF-8, without spaces at its ends.
func CheckOffice(name string, emptyOK bool) error {
	if name == "" && emptyOK {
		return nil
	}
	bad := name == "" || len(name) > MaxOffice || !utf8.ValidString(name) || name[0] == ' ' || name[len(name)-1] == ' '
	for _, r := range name {
		bad = bad || !unicode.IsPrint(r)
	}
	if bad {
		return fmt.Errorf("office name %.80q: want 1 to %d bytes of printable text", name, MaxOffice)
	}
	return nil
}

// mayFollow checks a grant against the one before it in the chain.
func (g *Grant) mayFollow(parent *Grant) error {
	skew := int64(Skew / time.Second)
	if len(g.Origin) != 0 {
		return fmt.Errorf("%w: only the mesh key says where the mesh comes from", ErrChain)
	}
	if g.Issued < parent.Issued-skew || g.Issued > parent.Expires+skew {
		return fmt.Errorf("%w: granted outside the time of its issuer", ErrChain)
	}
	if parent.Kind == Node {
		if parent.Role != Admin {
			return fmt.Errorf("%w: a %s cannot grant", ErrChain, parent.Role)
		}
		return nil
	}
	switch {
	case g.Kind != Node:
		return fmt.Errorf("%w: an invitation cannot invite", ErrChain)
	case g.Role != parent.Role:
		return fmt.Errorf("%w: role %s through an invitation for %s", ErrChain, g.Role, parent.Role)
	case parent.Office != "" && g.Office != parent.Office:
		return fmt.Errorf("%w: office %q through an invitation for %q", ErrChain, g.Office, parent.Office)
	}
	return nil
}
