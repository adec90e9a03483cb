// Package toxic joins offices on loopback by links that are slow, narrow or cut, as
// package wan does, but without root and on any system: every connection from one
// office to another passes a proxy of toxiproxy.
//
// An office listens at its site's P2P address, and tells others of the Front
// instead. Who dials the front is known by the port that the connection comes from,
// since libp2p dials from the port that it listens at; a connection from anywhere
// else is closed, and libp2p tries again.
//
// What differs from a network: there are no packets, so none is lost or overtaken; a
// rate is for each pair of offices and direction, not for an office's line; and what
// vanished in a cut is missing in the stream after it, so that healing ends the
// connections that there were.
package toxic
