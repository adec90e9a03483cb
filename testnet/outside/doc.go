// Package outside is the world around a mesh, made for tests on one machine: an
// upstream module proxy that counts what it is asked and can break in every way
// a real one does (Upstream, Fault), the modules it serves (World), a checksum
// database with a key of its own (Database), git repositories whose tags move
// (Repos), and the real go command in a clean environment (Go).
//
// Everything listens on loopback, is made from a seed or a text archive, and is
// the same each time. The package shares no code with the nodes under test, so
// that an error of theirs cannot hide in the world that they are tested against.
package outside
