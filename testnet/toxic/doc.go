// Package toxic joins offices on loopback by links that are slow, narrow or cut, as
// package wan does, but without root and on any system: every connection from one
// office to another passes a proxy of toxiproxy.
//
// An office listens at its site's P2P address, and tells others of the Front
// instead. Who dials the front is known by the port that the connection comes from,
// since libp2p dials from the port that it listens at; a connection from anywhere
// else is closed, and libp2p tries again.
//
// As on a network, an office's line is one for all that it says to others, and another
// one for all that it hears. What differs: there are no packets, so none is lost or
// overtaken, and nothing is dropped where a line is full, but waits; and what vanished
// in a cut is missing in the stream after it, so that healing ends the
// connections that there were.
package toxic
