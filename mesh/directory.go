package mesh

import "github.com/libp2p/go-libp2p/core/peer"

// Directory is the mesh as a list of who is in it, for protocols among members.
type Directory struct{ m *Mesh }

// Directory returns the list of members, which stays true as they come and go.
func (m *Mesh) Directory() Directory { return Directory{m} }

// Members returns all members with a credential in force, this node included.
func (d Directory) Members() []peer.ID { return d.m.Members() }

// Connected returns the members that a connection is open to.
func (d Directory) Connected() []peer.ID { return d.m.Connected() }

// IsMember reports whether p has a credential in force.
func (d Directory) IsMember(p peer.ID) bool { return d.m.IsMember(p) }

// Office names the office of a member, "" if p is none.
func (d Directory) Office(p peer.ID) string { return d.m.OfficeOf(p) }
