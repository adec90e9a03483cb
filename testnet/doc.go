// Package testnet brings up whole offices in one process, real nodes on real
// Badger, libp2p and HTTP, joined into a mesh over loopback, in front of an
// outside world (package outside) that counts and breaks. After any step Check
// walks every office: each release resolves, its bytes hash to what its record
// says, has the proof of the checksum database, and no two offices hold different
// hashes for one name. When a test ends, no goroutine, temporary or open file may
// be left.
//
// Nothing here is a double: what a test sees is what an operator would.
package testnet
