// Package policy says which modules may be used, fetched, shared and published.
//
// Its parts are the filter file in the format that Athens' users have, denylists
// of known vulnerabilities in OSV format, validation hooks, download modes, rules
// about which office may hold what, and the document with which the admins of a
// mesh bind all its offices. It promises that
//
//   - parsing is pure and takes hostile input: each decoder has a named limit, and
//     what it does not understand is an error or a warning, never passed over;
//   - a decision names the rule that made it, in words for whoever is refused;
//   - of two policies the stricter one counts, whichever is the mesh's: a local
//     policy can forbid more than the mesh does and never less.
//
// It does not know where a request or a file came from: package node asks it on
// the way of each request and at each admission.
package policy
