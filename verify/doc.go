// Package verify says which bytes belong to a module version, and who vouches
// for it.
//
// An h1 hash of go.sum is the SHA-256 of a listing, one line per file with that
// file's own SHA-256, so a module zip is a Merkle tree of depth two under a root
// that every Go user already trusts: Digest, Listing. Release records (Record)
// say which root a module version has; Trust weighs pins, checksum database and
// records. What this package accepts needs no trust in whoever sent the bytes;
// it opens no connection and keeps no file of its own.
package verify
