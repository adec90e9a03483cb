package member

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Why a statement does not enter a roster.
var (
	// ErrOtherMesh: it is for another mesh, or under another founder.
	ErrOtherMesh = errors.New("statement is not of this mesh")
	// ErrUnfounded: who signed or witnessed it is not known here (yet). It may
	// be offered again after the statements that it rests on.
	ErrUnfounded = errors.New("statement rests on a member that is not known here")
	// ErrStale: its time is over for so long that it is not kept.
	ErrStale = errors.New("statement is too old to keep")
	// ErrFull: the roster holds as many as it may.
	ErrFull = errors.New("roster is full")
)

const (
	// keepExpired is how long an expired credential is remembered.
	keepExpired = 90 * 24 * time.Hour
	// keepRevoked is how long a revocation is remembered: longer than any grant
	// that its target can have made.
	keepRevoked = 2*MaxLifetime + keepExpired
)

// Roster is the set of statements about one mesh: credentials of nodes,
// invitations, revocations, policies. The zero value is not usable; see NewRoster.
type Roster struct {
	mesh, founder Key
	credentials   map[subject][]*Credential // those that count most first
	revocations   map[ID]*Revocation
	policies      map[Key]*Policy // by author
	sum           *ID             // of the set as it is; nil until somebody asks
	newest        []Statement     // in the order in which they came
	arrivals      uint64          // how many came, with those that newest has lost
}

// subject keeps apart what a key is as a node and as the bearer of an invitation.
type subject struct {
	kind Kind
	key  Key
}

func (c *Credential) subject() subject { return subject{c.Grant().Kind, c.Subject()} }

// NewRoster returns the roster of the mesh that founder's credential is for.
// Only chains that begin with the same mesh key and the same founder enter it,
// so a leaked mesh key cannot grant a second founder to anybody who is in.
func NewRoster(mesh, founder Key) *Roster {
	return &Roster{mesh: mesh, founder: founder, credentials: map[subject][]*Credential{}, revocations: map[ID]*Revocation{}, policies: map[Key]*Policy{}}
}

// Mesh is the mesh key.
func (r *Roster) Mesh() Key { return r.mesh }

// Founder is the first node of every chain.
func (r *Roster) Founder() Key { return r.founder }

// AddCredential adds a credential of a node or an invitation. It reports
// whether the set changed: a credential that is known, or older than those that
// are kept for its subject, changes nothing and is no error.
func (r *Roster) AddCredential(c *Credential, now time.Time) (bool, error) {
	switch {
	case c.Mesh() != r.mesh || c.Founder() != r.founder:
		return false, fmt.Errorf("credential of %s: %w", c.Subject(), ErrOtherMesh)
	case stale(c, now):
		return false, fmt.Errorf("credential of %s: %w", c.Subject(), ErrStale)
	}
	known := r.credentials[c.subject()]
	if slices.ContainsFunc(known, func(k *Credential) bool { return k.id == c.id }) {
		return false, nil
	}
	if !r.founded(c) {
		return false, fmt.Errorf("credential of %s: %w", c.Subject(), ErrUnfounded)
	}
	if len(known) == 0 && len(r.credentials) >= MaxMembers {
		return false, fmt.Errorf("credential of %s: %w: %d members and invitations", c.Subject(), ErrFull, MaxMembers)
	}
	next := kept(append(slices.Clone(known), c))
	r.credentials[c.subject()] = next
	if !slices.Contains(next, c) {
		return false, nil
	}
	r.arrived(Statement{Credential: c.raw})
	return true, nil
}

func stale(c *Credential, now time.Time) bool {
	return now.Unix()-c.Grant().Expires > int64(keepExpired/time.Second)
}

func staleRevocation(v *Revocation, now time.Time) bool {
	return now.Unix()-v.At > int64(keepRevoked/time.Second)
}

// founded reports whether the members that a credential rests on are known: the
// witness, and every node of the chain that itself joined by invitation.
func (r *Roster) founded(c *Credential) bool {
	return !slices.ContainsFunc(c.restsOn(), func(k Key) bool { return !r.knowsNode(k) })
}

func (r *Roster) knowsNode(k Key) bool {
	return len(r.credentials[subject{Node, k}]) > 0
}

// AddRevocation adds a revocation by a node that is known here. Of those by which a
// node itself leaves the newest is kept: it says all that the others say, and nobody
// can fill the roster with them. It reports whether the set changed.
func (r *Roster) AddRevocation(v *Revocation, now time.Time) (bool, error) {
	left := r.leaveOf(v)
	switch {
	case v.Mesh() != r.mesh:
		return false, fmt.Errorf("revocation of %s: %w", v.Target, ErrOtherMesh)
	case staleRevocation(v, now):
		return false, fmt.Errorf("revocation of %s: %w", v.Target, ErrStale)
	case r.revocations[v.id] != nil:
		return false, nil
	case !r.mayRevoke(v):
		return false, fmt.Errorf("revocation of %s by %s: %w", v.Target, v.By, ErrUnfounded)
	case left != nil && newerLeave(left, v) <= 0:
		return false, nil
	case left == nil && len(r.revocations) >= MaxRevocations:
		return false, fmt.Errorf("revocation of %s: %w: %d revocations", v.Target, ErrFull, MaxRevocations)
	}
	if left != nil {
		delete(r.revocations, left.id)
	}
	r.revocations[v.id] = v
	r.arrived(Statement{Revocation: v.raw})
	return true, nil
}

// leaveOf returns the leave that is kept of the node that leaves by v, nil if there is
// none or v is no leave.
func (r *Roster) leaveOf(v *Revocation) *Revocation {
	if !v.Leave() {
		return nil
	}
	for _, have := range r.revocations {
		if have.Leave() && have.By == v.By {
			return have
		}
	}
	return nil
}

// newerLeave orders the leaves of one node, the one that counts first.
func newerLeave(a, b *Revocation) int {
	return cmp.Or(cmp.Compare(b.At, a.At), compareIDs(a.id, b.id))
}

// mayRevoke: a node may take itself out; an admin may take out whoever its own
// right does not come from.
func (r *Roster) mayRevoke(v *Revocation) bool {
	return slices.ContainsFunc(r.credentials[subject{Node, v.By}], func(c *Credential) bool {
		g := c.Grant()
		return v.Leave() || g.Role == Admin && !c.through(v.Target)
	})
}

// through reports whether the chain above the subject has key k.
func (c *Credential) through(k Key) bool {
	return slices.ContainsFunc(c.grants[:len(c.grants)-1], func(g Grant) bool { return g.Subject == k })
}

// Prune forgets what is too old to matter. It reports whether the set changed.
func (r *Roster) Prune(now time.Time) bool {
	changed := false
	for k, known := range r.credentials {
		kept := slices.DeleteFunc(slices.Clone(known), func(c *Credential) bool { return stale(c, now) })
		changed = changed || len(kept) != len(known)
		if r.credentials[k] = kept; len(kept) == 0 {
			delete(r.credentials, k)
		}
	}
	before := len(r.revocations)
	maps.DeleteFunc(r.revocations, func(_ ID, v *Revocation) bool { return staleRevocation(v, now) })
	dropped := r.prunePolicies()
	r.sum = nil
	return changed || dropped || len(r.revocations) != before
}

// Statement is one member of the set in its wire form.
type Statement struct {
	Credential []byte `cbor:"1,keyasint,omitempty"`
	Revocation []byte `cbor:"2,keyasint,omitempty"`
	Policy     []byte `cbor:"3,keyasint,omitempty"`
}

// IDs returns the IDs of all statements, sorted.
func (r *Roster) IDs() []ID {
	ids := slices.Collect(maps.Keys(r.revocations))
	for _, known := range r.credentials {
		for _, c := range known {
			ids = append(ids, c.id)
		}
	}
	for _, p := range r.policies {
		ids = append(ids, p.id)
	}
	slices.SortFunc(ids, compareIDs)
	return ids
}

// Sum names the whole set: two rosters with the same sum hold the same.
func (r *Roster) Sum() ID {
	if r.sum == nil {
		h := sha256.New()
		for _, id := range r.IDs() {
			h.Write(id[:])
		}
		sum := ID(h.Sum(nil))
		r.sum = &sum
	}
	return *r.sum
}

// Statements returns the statements whose IDs want accepts, credentials that
// others rest on first.
func (r *Roster) Statements(want func(ID) bool) []Statement {
	var creds []*Credential
	for _, known := range r.credentials {
		for _, c := range known {
			if want(c.id) {
				creds = append(creds, c)
			}
		}
	}
	slices.SortFunc(creds, func(a, b *Credential) int { return -newestFirst(a, b) })
	var out []Statement
	for _, c := range creds {
		out = append(out, Statement{Credential: c.raw})
	}
	for id, v := range r.revocations {
		if want(id) {
			out = append(out, Statement{Revocation: v.raw})
		}
	}
	for _, p := range r.policies {
		if want(p.id) {
			out = append(out, Statement{Policy: p.raw})
		}
	}
	return out
}

// Merge adds all statements that hold, in whatever order they come. It reports
// whether the set changed, and the errors of those that did not enter. Each is checked
// once, however often it has to wait for others.
func (r *Roster) Merge(statements []Statement, now time.Time) (bool, error) {
	changed := false
	var rest []adder
	var errs []error
	for _, s := range r.unknown(statements) {
		if a, err := r.parse(s, now); err != nil {
			errs = append(errs, err)
		} else {
			rest = append(rest, a)
		}
	}
	for progress := true; progress && len(rest) > 0; changed = changed || progress {
		var waiting []adder
		var unfounded []error
		progress = false
		for _, add := range rest {
			added, err := add()
			progress = progress || added
			switch {
			case errors.Is(err, ErrUnfounded):
				waiting, unfounded = append(waiting, add), append(unfounded, err)
			case err != nil:
				errs = append(errs, err)
			}
		}
		rest = waiting
		if !progress {
			errs = append(errs, unfounded...)
		}
	}
	return changed, errors.Join(errs...)
}

// adder adds a statement whose signatures were checked.
type adder func() (bool, error)

// unknown leaves out what is here already, before any signature is checked: the
// same news comes from many members.
func (r *Roster) unknown(statements []Statement) []Statement {
	ids := r.IDs()
	var out []Statement
	for _, s := range statements {
		id := ID(sha256.Sum256(slices.Concat(s.Credential, s.Revocation, s.Policy)))
		if _, ok := slices.BinarySearchFunc(ids, id, compareIDs); !ok {
			out = append(out, s)
		}
	}
	return out
}

func (r *Roster) parse(s Statement, now time.Time) (adder, error) {
	if s.Revocation != nil {
		v, err := ParseRevocation(s.Revocation)
		return func() (bool, error) { return r.AddRevocation(v, now) }, err
	}
	if s.Policy != nil {
		p, err := ParsePolicy(s.Policy)
		return func() (bool, error) { return r.AddPolicy(p) }, err
	}
	c, err := ParseCredential(s.Credential)
	return func() (bool, error) { return r.AddCredential(c, now) }, err
}

// Bundle returns a credential, and those that it rests on, witnesses and invited
// admins, as far as they fit in limit bytes: all that one who has the founder
// needs to check it.
func (r *Roster) Bundle(c *Credential, limit int) []Statement {
	out := []Statement{{Credential: c.raw}}
	seen := map[Key]bool{c.Subject(): true}
	size := len(c.raw)
	queue := []*Credential{c}
	for len(queue) > 0 {
		var next []*Credential
		for _, k := range queue[0].restsOn() {
			known := r.credentials[subject{Node, k}]
			if seen[k] || len(known) == 0 || size+len(known[0].raw) > limit {
				continue
			}
			seen[k] = true
			size += len(known[0].raw)
			out = append(out, Statement{Credential: known[0].raw})
			next = append(next, known[0])
		}
		queue = append(queue[1:], next...)
	}
	return out
}

// restsOn lists the keys whose own credentials a roster must have before c.
func (c *Credential) restsOn() []Key {
	var out []Key
	if w := c.wire.Witness; w != nil {
		out = append(out, w.By)
	}
	for i := 1; i < len(c.grants)-1; i++ {
		if c.grants[i].Kind == Node && c.grants[i-1].Kind == Invite {
			out = append(out, c.grants[i].Subject)
		}
	}
	return out
}

// Vouched adds a stranger's credential and those that it rests on, if with them
// the stranger is a member at now; otherwise nothing changes. Everything else
// among the statements is left out.
func (r *Roster) Vouched(stranger Key, statements []Statement, now time.Time) (bool, error) {
	trial := r.Clone()
	var own *Credential
	var errs []error
	var creds []*Credential
	for _, s := range statements[:min(len(statements), MaxMembers)] {
		if s.Credential == nil {
			continue
		}
		c, err := ParseCredential(s.Credential)
		if err != nil {
			return false, err
		}
		if c.Subject() == stranger {
			own = c
		}
		creds = append(creds, c)
	}
	if own == nil {
		return false, fmt.Errorf("%w: no credential of %s", ErrChain, stranger)
	}
	slices.Reverse(creds) // a bundle has first what rests on the rest
	for range creds {
		progress := false
		for _, c := range creds {
			added, err := trial.AddCredential(c, now)
			progress = progress || added
			if err != nil && c == own {
				errs = append(errs, err)
			}
		}
		if !progress {
			break
		}
	}
	if !trial.has(stranger, now) {
		return false, errors.Join(errs...)
	}
	*r = *trial
	return true, nil
}

// Clone returns a roster of its own with the same statements.
func (r *Roster) Clone() *Roster {
	c := *r
	c.credentials, c.revocations, c.policies = maps.Clone(r.credentials), maps.Clone(r.revocations), maps.Clone(r.policies)
	c.newest = slices.Clip(r.newest)
	return &c
}

// Len is the number of statements.
func (r *Roster) Len() int {
	n := len(r.revocations) + len(r.policies)
	for _, known := range r.credentials {
		n += len(known)
	}
	return n
}
