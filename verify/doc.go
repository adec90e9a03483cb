// Package verify says which bytes belong to a module version, and who vouches
// for it. What it accepts needs no trust in whoever sent the bytes. It opens no
// connection and keeps no file of its own: callers hand it bytes, a cache (DBCache)
// and ways to a checksum database (DBRemote), all of which may lie.
//
// # Digests
//
// An h1 hash of go.sum is the SHA-256 of a listing, one line per file with that
// file's own SHA-256, so a module zip is a Merkle tree of depth two under a root
// that every Go user already trusts: Digest, Listing. A go.mod's h1 is that of a
// listing with one line. A .info has no h1, and its digest is its plain SHA-256.
//
// # Who vouches
//
// Trust weighs three authorities. Pins come from go.sum files of the operator. The
// checksum database is asked through Database, whose timeline only grows, which
// keeps no error and caches nothing that it has not verified. A member of the mesh
// vouches by signing a Record: for modules that no database covers, and for .info.
// Two authorities that disagree are an error, whatever their rank.
//
// # Records
//
// A Record travels in a libp2p record.Envelope, at most MaxRecord bytes, signed
// with an Ed25519 key under the domain "meshproxy release record", with the payload
// type "/meshproxy/record/1". The payload is a map in core deterministic CBOR, and
// an envelope in any but its one encoding is refused:
//
//	 1  text   mesh            not empty, up to 1 KiB of printable characters
//	 2  text   module path     as module.CheckPath has it
//	 3  text   version         canonical, fits the path
//	 4  text   kind            "info", "mod" or "zip"
//	 5  bytes  digest          32
//	 6  bytes  data            info: up to 1 MiB; mod: up to 16 MiB; zip: absent
//	 7  uint   size            zip: up to 500 MiB, uncompressed; else the length of 6
//	 8  uint   fetched         Unix seconds, up to the year 9999
//	 9  text   office          like 1, may be absent
//	10  text   source          like 1, may be absent
//	11  text   authority       "pin", "sumdb" or "member"
//	12  text   database        like 1, present with 13 alone
//	13  map    proof           always with "sumdb", perhaps with "pin"
//
// A proof is, with its own keys:
//
//	1  bytes  tree head       signed note, up to 8 KiB
//	2  uint   record number
//	3  bytes  record          go.sum lines, up to 64 KiB
//	4  bytes  path            up to 48 hashes of 32 bytes, from the leaf up
//
// # Cache
//
// A Database keeps its entries under NAME+KEYHASH/: "latest" is its signed tree
// head, "latest-copy" the same in case that is damaged, "proof/MODULE@VERSION" a
// proof in the encoding above, "tile/8/L/N" the verified beginning of a tile,
// "tile/8/data/N" a full tile of records, and "forks" the evidence of misbehaviour.
package verify
