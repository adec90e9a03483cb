// Package wan emulates a wide area network between offices on one Linux machine,
// in user space. Each site is a network namespace of its own with a TUN device;
// a router of this package reads the packets that the kernel sends there, holds
// them back as long as the line would, loses, reorders or cuts them, counts them
// for each pair of sites, and hands them to the namespace that they are for.
//
// What runs at a site are ordinary processes and sockets: they have addresses
// other than loopback, a default route, IPv4 and IPv6, and, where a site is set
// up so, a NAT in front of them, made by nftables in a namespace in between.
//
// A line is a virtual-time queue: a packet leaves when those before it have left
// and its own bits have passed at the line's rate, and is dropped when it would
// wait longer than a router's buffer lasts. Times are computed for each packet
// from those of the packets before it, so a late timer delays one packet and
// does not slow the line.
//
// Namespaces and devices have no names outside the process that made them. They
// are gone when the network is closed and the processes at its sites have ended,
// also when the process that made them was killed.
//
// Sites can stand on one office network besides: a bridge, with multicast (LAN).
//
// It needs root, /dev/net/tun and the ip command, nft for NAT, and miniupnpd for
// routers that map ports. Without them
// New and Attach return ErrUnavailable with the reason.
package wan
