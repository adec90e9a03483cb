// Package protocol is the wire between the go command and an office: the module
// download protocol (GOPROXY), the checksum database's proxy protocol, and the
// index and catalog that mirrors know.
//
// ParsePath is the grammar: pure, and everything that it refuses is refused
// before any I/O. Backend is what an office knows. NewHandler puts the two
// together and promises that an answer is either whole or visibly cut off, that
// an outage is never reported as "not found", and that an error reaches the
// user of the go command as a readable sentence. Package protocol/upstream is
// the other end of the same protocol.
//
// # Requests
//
// GET and HEAD only; M is an escaped module path, V an escaped version:
//
//	/M/@v/list        versions, one a line        mutable
//	/M/@v/V.info      of a canonical version      immutable
//	/M/@v/V.info      of any other revision       mutable
//	/M/@v/V.mod       canonical versions only     immutable
//	/M/@v/V.zip       canonical versions only     immutable
//	/M/@latest        .info of the newest version mutable
//	/sumdb/NAME/supported, latest                 mutable
//	/sumdb/NAME/lookup/M@V                        mutable (it carries a tree head)
//	/sumdb/NAME/tile/H/L/NNN[.p/W]                immutable
//	/index?since=TIME&limit=N                     NDJSON, oldest first
//	/catalog?token=T&pagesize=N                   JSON
//	/cached-only/...                              any of the above that names a module
//	                                              or a database, without a fetch
//
// The header "Disable-Module-Fetch: true" means the same as /cached-only. The
// header Meshproxy-Hop names the nodes that a request has passed through.
package protocol
