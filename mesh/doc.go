// Package mesh makes one node of a mesh of offices: its libp2p host, who may
// speak to it, and how members find each other and what they hold.
//
// It promises that a peer without a credential in force opens nothing but
// identify, hello and join, in either direction, under limits and deadlines;
// that every other protocol, the DHT and relaying included, is between members
// only; that members are redialled for as long as they are members; and that
// the roster of a node converges with that of every member it meets. It does not
// judge what members say about modules: packages exchange and verify do.
//
// The gate is one: the resource manager is asked before any stream gets its
// protocol, and it knows the peer (gate.go). Nobody is contacted who is not a
// member, named in a token, or named in Config.Peers; there are no default peers.
//
// # Wire
//
// All protocols have the prefix /meshproxy/<tag>, where tag is the first bytes
// of the SHA-256 of the mesh key, so that two meshes never speak to each other.
// A message is CBOR behind its length as an unsigned varint; the largest size of
// each is a constant in wire.go, and each exchange has a deadline. Statements are
// those of package member.
//
//	hello/1   who I am. Dialler: helloOpen with its credential and those that it
//	          rests on. Answer: helloReply with a status, and the same. A node
//	          shows its credential first only to peers that its roster has, and
//	          answers with its own only after it has checked the other's. The
//	          connection's TLS proves the peer's key, so a replayed hello is one
//	          with another subject.
//	join/1    let me in. joinOpen with the invitation; joinOffer with a status
//	          and the time; joinProof with the grant that the bearer key signs;
//	          joinWelcome with the witnessed credential and those it rests on.
//	          The bearer key never leaves the joining node.
//	sync/1    members only. syncOpen with the sum of the roster, and what has
//	          entered it since the two last had the same; syncHave, which says
//	          that the sums agree, or has the IDs that the other has; then only
//	          syncGive with what it lacks and what is wanted; syncGive. The
//	          first two also say where the sender is if that has changed, which
//	          members have moved, where those are that the other asked about,
//	          whom the sender asks about, and how many zips it announces.
//	ping/1    members only. libp2p's ping under this name.
//	kad/1.0.0 members only. The DHT of kad-dht, for providers of root CIDs.
//
// Streams are opened by the asker and closed by the answerer. A refusal is a
// status, which Go code sees as one of the package's errors again.
package mesh
