// Package member says who belongs to a mesh: signed credentials, invitations,
// revocations, and the roster that holds them.
//
// A mesh is an Ed25519 key. A Credential is a chain of signed links from that
// key to a node's own key; every link is a Grant: a node in a role, or an
// invitation, whose bearer key may sign the grants of those who hold the Token.
// A grant that a bearer key signed counts only with the witness of a member, so
// a token admits nobody once every reachable member knows it as used, withdrawn
// or expired. A Revocation takes a key out again and outranks every grant.
// A Policy is a document that an admin signed for all members.
//
// A Roster is the set of all such statements. Merging is commutative,
// associative and idempotent, and who is a member (Evaluate) is a function of
// the set and of the time alone: rosters that hold the same statements agree,
// whatever was lost, reordered or repeated on the way.
//
// The package is pure: no clock but the one passed in, no goroutine, no socket,
// no file. All decoders take hostile input and have limits (codec.go). Nothing
// here is safe for concurrent use; a View is immutable and may be shared.
package member
